"""`identify` names the initialiser of a weight or a bias."""

import math

import pytest
import torch
from torch import nn

from trainvitals.diagnosis.initialisers import candidates
from trainvitals.remedies import identify

WEIGHTS = {
    "linear": (64, 48),
    "narrow_linear": (32, 16),
    "wide_linear": (96, 300),
    "conv1d": (48, 16, 5),
    "conv2d": (32, 24, 3, 3),
    "grouped_conv2d": (64, 4, 3, 3),
    "conv3d": (24, 8, 3, 3, 3),
    "conv_transpose2d": (40, 24, 4, 4),
}
INITIALISERS = {
    "normal": [lambda w: nn.init.normal_(w, std=0.5), lambda w: nn.init.normal_(w, 0.3, 0.001)],
    "truncated_normal": [
        lambda w: nn.init.trunc_normal_(w),
        lambda w: nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
    ],
    "uniform": [nn.init.uniform_, lambda w: nn.init.uniform_(w, -0.7, 0.7)],
    "zeros": [nn.init.zeros_],
    "ones": [nn.init.ones_],
    "constant": [lambda w: nn.init.constant_(w, 0.1)],
    "xavier_normal": [
        nn.init.xavier_normal_,
        lambda w: nn.init.xavier_normal_(w, gain=5 / 3),
        lambda w: nn.init.xavier_normal_(w, gain=math.sqrt(2)),
    ],
    "xavier_uniform": [
        nn.init.xavier_uniform_,
        lambda w: nn.init.xavier_uniform_(w, gain=5 / 3),
        lambda w: nn.init.xavier_uniform_(w, gain=math.sqrt(2)),
    ],
    "he_normal": [
        lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
        lambda w: nn.init.kaiming_normal_(w, a=0.01),
    ],
    "he_uniform": [
        lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
        lambda w: nn.init.kaiming_uniform_(w, a=0.01),
    ],
    "lecun_normal": [lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear")],
    "lecun_uniform": [lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear")],
    "orthogonal": [nn.init.orthogonal_, lambda w: nn.init.orthogonal_(w, gain=math.sqrt(2))],
    "torch_default": [lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5))],
}
SEEDS = 4


def grid():
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        for layer, shape in WEIGHTS.items():
            for name, functions in INITIALISERS.items():
                for number, function in enumerate(functions):
                    weight = torch.empty(shape)
                    function(weight)
                    yield f"{name}/{number}/{layer}/{seed}", name, weight


def names_of_the_same_distribution(name, number, weight):
    """Return the names that denote the distribution of initialiser `number` of `name`."""
    if name in ("xavier_normal", "xavier_uniform", "he_normal", "he_uniform") or "lecun" in name:
        family = name.partition("_")[2]
    elif name == "torch_default":
        family = "uniform"
    else:
        return {name}
    scales = candidates(family, *nn.init._calculate_fan_in_and_fan_out(weight))
    gain = [1, 5 / 3, math.sqrt(2)][number] if "xavier" in name else None
    mine = next(
        c.std for c in scales if c.name == name and (gain is None or c.parameters["gain"] == gain)
    )
    return {c.name for c in scales if c.std == pytest.approx(mine, rel=1e-6)}


def test_it_is_right_for_99_percent_of_a_grid_of_layers_and_initialisers():
    cases = list(grid())
    wrong = [
        where
        for where, name, weight in cases
        if identify(weight).name
        not in names_of_the_same_distribution(name, int(where.split("/")[1]), weight)
    ]
    assert len(wrong) <= 0.01 * len(cases), wrong


@pytest.mark.parametrize(
    ("shape", "function", "name"),
    [
        ((200, 200), lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"), "xavier_normal"),
        (
            (200, 200),
            lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear"),
            "xavier_uniform",
        ),
        ((200, 200), lambda w: nn.init.xavier_normal_(w, gain=math.sqrt(2)), "he_normal"),
        ((300, 100), lambda w: nn.init.xavier_normal_(w, gain=math.sqrt(2)), "lecun_normal"),
        ((500, 100), nn.init.xavier_uniform_, "torch_default"),
    ],
)
def test_where_two_names_denote_one_distribution_the_order_is_fixed(shape, function, name):
    weight = torch.empty(shape)
    function(weight)
    assert identify(weight).name == name


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(64, 32),
        nn.Conv2d(16, 32, 3),
        nn.Conv2d(64, 64, 3, groups=4),
        nn.ConvTranspose2d(16, 32, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_weight_of_a_new_layer_is_torchs_default(layer):
    assert identify(layer.weight).name == "torch_default"


def test_a_bias_is_torchs_default_if_the_fan_of_its_layer_is_given():
    layer = nn.Linear(100, 200)
    assert identify(layer.bias, fan_in=100).name == "torch_default"
    seen = identify(layer.bias)
    assert seen.name == "uniform"
    assert seen.parameters["high"] == pytest.approx(0.1, rel=0.05)


def test_gpt2_is_a_normal_distribution_with_std_0_02():
    weight = nn.init.normal_(torch.empty(768, 768), std=0.02)
    assert (identify(weight).name, identify(weight).parameters["std"]) == ("normal", 0.02)


def test_the_parameters_say_what_the_name_leaves_open():
    torch.manual_seed(0)
    shifted = nn.init.uniform_(torch.empty(100, 100), 2, 3)
    assert identify(shifted).parameters == pytest.approx({"low": 2, "high": 3}, abs=0.02)
    rows = nn.init.orthogonal_(torch.empty(64, 128), gain=1.5)
    assert identify(rows).parameters == pytest.approx({"gain": 1.5})
    assert identify(torch.full((3,), 0.25)).parameters == {"value": 0.25}
    tanh = nn.init.xavier_uniform_(torch.empty(300, 200), gain=5 / 3)
    assert identify(tanh).parameters == pytest.approx({"gain": 5 / 3})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.init.orthogonal_, "orthogonal"),
        (nn.init.xavier_normal_, "xavier_normal"),
        (lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)), "torch_default"),
    ],
)
def test_the_name_is_the_same_in_every_floating_point_type(dtype, function, name):
    weight = torch.empty(96, 400)
    function(weight)
    assert identify(weight.to(dtype)).name == name


def test_heavy_tails_are_unknown():
    torch.manual_seed(0)
    assert identify(torch.randn(100, 100) ** 3).name == "unknown"


def test_rows_of_different_scales_are_unknown():
    torch.manual_seed(0)
    rows = torch.randn(200, 100) * torch.tensor([1.0, 0.1]).repeat(100).unsqueeze(1)
    assert identify(rows).name == "unknown"


def test_a_few_entries_have_no_name():
    assert identify(torch.tensor([0.1, 0.2, 0.3])).name == "unknown"


def test_the_confidence_falls_with_the_number_of_entries():
    torch.manual_seed(0)
    large = identify(nn.init.xavier_normal_(torch.empty(400, 300)))
    small = identify(nn.init.xavier_normal_(torch.empty(5, 4)))
    assert large.confidence > 0.99
    assert small.confidence < 0.9


def test_it_changes_neither_the_tensor_nor_the_random_state():
    layer = nn.Linear(30, 30)
    before, state = layer.weight.detach().clone(), torch.get_rng_state()
    identify(layer.weight)
    assert torch.equal(layer.weight, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("tensor", "error", "text"),
    [
        ([1.0, 2.0], TypeError, "not a list"),
        (torch.zeros(3, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(3, dtype=torch.complex64), TypeError, "complex64"),
        (torch.empty(0, 4), ValueError, "empty"),
        (torch.tensor([1.0, math.nan]), ValueError, "NaN"),
        (torch.empty(3, 3, device="meta"), ValueError, "meta"),
        (nn.LazyLinear(3).weight, ValueError, "lazy"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_tensor_without_an_initialiser_is_refused_with_the_reason(tensor, error, text):
    with pytest.raises(error, match=text):
        identify(tensor)


def test_a_fan_is_greater_than_0():
    with pytest.raises(ValueError, match="fan_in is 0"):
        identify(torch.ones(3), fan_in=0)
