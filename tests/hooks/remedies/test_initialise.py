"""`initialise` fills parameters by their fans and by what follows, or leaves them and says why."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.models_to_initialise import WIDTH, Residual, TinyTransformer, stack
from trainvitals.remedies import initialise


@pytest.mark.parametrize(
    ("activation", "std"),
    [
        (nn.ReLU(), math.sqrt(2 / WIDTH)),
        (nn.GELU(), math.sqrt(2 / WIDTH)),
        (nn.LeakyReLU(0.5), math.sqrt(2 / 1.25 / WIDTH)),
        (nn.Tanh(), 5 / 3 * math.sqrt(2 / (4 * WIDTH))),
        (nn.Sigmoid(), math.sqrt(2 / (4 * WIDTH))),
        (nn.SELU(), math.sqrt(1 / WIDTH)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_auto_takes_the_scale_that_the_next_nonlinearity_needs(activation, std):
    torch.manual_seed(0)
    model = stack(activation)
    row = initialise(model).of("0.weight")
    assert float(model[0].weight.detach().std()) == pytest.approx(std, rel=0.03)
    assert row.std_after == pytest.approx(float(model[0].weight.detach().std(correction=0)))
    assert (row.fan_in, row.fan_out) == (WIDTH, 3 * WIDTH)


def test_the_head_is_initialised_for_a_linear_output_and_biases_become_0():
    model = stack(nn.ReLU())
    row = initialise(model).of("2.weight")
    assert (row.strategy, row.nonlinearity, row.reason) == ("xavier_normal", "", "head")
    assert not model[0].bias.any()
    assert not model[2].bias.any()


@pytest.mark.parametrize("depth", [30])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SELU])
def test_the_signal_keeps_its_scale_through_a_deep_stack(activation, depth):
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(256, 256), activation())]
    model = nn.Sequential(*layers)
    x = torch.randn(512, 256)
    default = float(model(x).detach().std(dim=0).mean())
    initialise(model)
    assert 0.1 < float(model(x).detach().std(dim=0).mean()) < 3
    assert default < 0.05


def test_functional_nonlinearities_and_residual_branches_are_found_without_data():
    model = Residual()
    plan = initialise(model)
    assert plan.of("up.weight").nonlinearity == "gelu"
    assert plan.of("hidden.weight").nonlinearity == "tanh"
    assert plan.of("head.weight").reason == "head"
    assert "residual branch" in plan.of("down.weight").reason


class Branches(nn.Module):
    """A value and a branch from it, with or without a norm, and their sum."""

    def __init__(self, *, norm=False):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 2)
        self.norm = nn.LayerNorm(9) if norm else nn.Identity()

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.head(hidden + self.norm(self.two(hidden)))


def test_the_end_of_a_branch_is_told_from_a_norm_after_it_and_from_a_sum_of_other_values():
    assert "residual" in initialise(Branches()).of("two.weight").reason
    assert "residual" not in initialise(Branches(norm=True)).of("two.weight").reason

    class Sum(Branches):
        def forward(self, x, z):
            return self.head(self.one(x) + self.two(z))

    assert "residual" not in initialise(Sum()).of("two.weight").reason


def test_a_module_that_is_registered_last_and_used_twice_is_found():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.out = nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 2)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.out(self.relu(self.two(self.relu(self.one(x)))))

    plan = initialise(Shared())
    found = [plan.of(f"{name}.weight").nonlinearity for name in ("one", "two", "out")]
    assert found == ["relu", "relu", ""]


def test_where_the_forward_pass_depends_on_values_the_order_of_the_modules_is_taken():
    class Dynamic(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    plan = initialise(Dynamic(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2)))
    assert plan.of("0.weight").nonlinearity == "relu"
    assert plan.of("2.weight").reason == "head"


def test_a_nonlinearity_that_cannot_be_found_can_be_given():
    class Dynamic(nn.Sequential):
        def forward(self, x):
            for layer in self[:-1]:
                x = F.relu(layer(x)) if x.sum() > 0 else x
            return self[-1](x)

    plan = initialise(Dynamic(nn.Linear(9, 9), nn.Linear(9, 2)), nonlinearity="relu")
    assert [plan[0].strategy, plan[2].strategy] == ["he_normal", "xavier_normal"]


def test_a_transformers_residual_branches_are_scaled_by_their_number():
    torch.manual_seed(0)
    model = TinyTransformer()
    plan = initialise(model)
    row = plan.of("encoder.layers.2.linear2.weight")
    assert row.std_after == pytest.approx(math.sqrt(2 / (64 + 256)) / math.sqrt(6), rel=0.03)
    assert "1/√6" in row.reason
    out = plan.of("encoder.layers.0.self_attn.out_proj.weight")
    assert out.std_after == pytest.approx(math.sqrt(1 / 64) / math.sqrt(6), rel=0.05)
    assert plan.of("encoder.layers.0.linear1.weight").nonlinearity == "relu"
    # Queries, keys and values are three matrices of 64 × 64.
    joint = plan.of("encoder.layers.0.self_attn.in_proj_weight")
    assert joint.std_after == pytest.approx(math.sqrt(1 / 64), rel=0.05)


def test_embeddings_and_the_head_that_is_tied_to_them_are_left():
    model = TinyTransformer()
    before = model.embedding.weight.clone()
    row = initialise(model).of("embedding.weight")
    assert (row.strategy, row.reason) == ("left", "embedding (tied)")
    assert torch.equal(model.head.weight, before)


def test_a_tied_weight_is_initialised_once():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    plan = initialise(model)
    assert [row.parameter for row in plan] == ["0.weight", "0.bias", "2.bias"]
    assert "tied with 2.weight" in plan.of("0.weight").reason


def test_recurrent_weights_are_orthogonal_for_each_gate_and_the_forget_bias_is_1():
    lstm = nn.LSTM(8, 16)
    initialise(lstm)
    for gate in lstm.weight_hh_l0.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)
    total = lstm.bias_ih_l0 + lstm.bias_hh_l0
    assert total.tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32
    gru = nn.GRU(8, 16)
    initialise(gru)
    assert not gru.bias_ih_l0.any()


def test_a_transposed_convolution_and_groups_have_their_true_fans():
    up = initialise(nn.Sequential(nn.ConvTranspose2d(32, 16, 4, stride=2), nn.ReLU()))[0]
    assert (up.fan_in, up.fan_out) == (32 * 4, 16 * 16)
    grouped = initialise(nn.Sequential(nn.Conv2d(32, 64, 3, groups=4), nn.ReLU()))[0]
    assert (grouped.fan_in, grouped.fan_out) == (8 * 9, 16 * 9)


@pytest.mark.parametrize(
    ("make", "parameter", "reason"),
    [
        (lambda: nn.BatchNorm1d(4), "weight", "norm"),
        (lambda: nn.Embedding(4, 4), "weight", "embedding"),
        (lambda: nn.Linear(4, 4).requires_grad_(False), "weight", "frozen"),
        (lambda: nn.LazyLinear(4), "weight", "lazy"),
        (lambda: nn.Linear(4, 4, device="meta"), "weight", "meta"),
        (lambda: nn.Linear(4, 4, dtype=torch.complex64), "weight", "complex64"),
        (lambda: nn.PReLU(), "weight", "no rule"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "original1", "parametris"),
    ],
    ids=["norm", "embedding", "frozen", "lazy", "meta", "complex", "prelu", "parametrised"],
)
def test_what_is_left_alone_has_a_row_with_the_reason(make, parameter, reason):
    layer = make()
    plan = initialise(nn.Sequential(layer))
    [row] = [row for row in plan if row.parameter.endswith(parameter)]
    assert row.strategy == "left"
    assert reason in row.reason
    assert row.std_before == row.std_after


def test_branches_that_start_at_zero_keep_their_zeros_but_a_zero_network_does_not():
    model = Residual()
    nn.init.zeros_(model.down.weight)
    nn.init.zeros_(model.hidden.weight)
    plan = initialise(model)
    assert plan.of("down.weight").reason == "branch that starts at zero"
    assert not model.down.weight.any()
    assert model.hidden.weight.any()


def test_the_zero_factor_of_lora_is_left():
    model = nn.Module()
    model.lora_A, model.lora_B = nn.Linear(16, 2, bias=False), nn.Linear(2, 16, bias=False)
    nn.init.zeros_(model.lora_B.weight)
    assert not initialise(model).of("lora_B.weight").is_changed
    assert not model.lora_B.weight.any()
