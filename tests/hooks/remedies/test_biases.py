"""`biases` treats biases apart from weights: groups, penalty, recentring, audit."""

import math

import pytest
import torch
from torch import nn

from trainvitals.remedies import biases


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class OwnNorm(nn.Module):
    """A norm that PyTorch does not know, as in many language models."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return x * self.weight


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), OwnNorm(), nn.ReLU())
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.head = nn.Linear(8, 20)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.frozen(self.body(self.embedding(tokens))))


def names_in(model, group):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in group["params"]}


# --- parameter groups ---


def test_only_weights_of_layers_have_weight_decay():
    model = Tied()
    weights, scales, offsets = biases.parameter_groups(model, weight_decay=0.1)
    assert names_in(model, weights) == {"body.0.weight", "frozen.weight"}
    assert names_in(model, scales) == {"embedding.weight", "body.1.weight", "body.2.weight"}
    assert names_in(model, offsets) == {"body.0.bias", "body.1.bias", "frozen.bias", "head.bias"}
    assert [g["weight_decay"] for g in (weights, scales, offsets)] == [0.1, 0.0, 0.0]


def test_every_parameter_is_in_one_group():
    model = Tied()
    grouped = [id(p) for g in biases.parameter_groups(model, weight_decay=0.1) for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_a_head_that_is_registered_before_its_embedding_has_no_decay_either():
    model = nn.Module()
    model.head, model.embedding = nn.Linear(4, 10, bias=False), nn.Embedding(10, 4)
    model.embedding.weight = model.head.weight
    [group] = biases.parameter_groups(model, weight_decay=0.1)
    assert (group["name"], group["weight_decay"]) == ("norm scales and embeddings", 0.0)


def test_biases_can_have_a_learning_rate_and_a_decay_of_their_own():
    model = nn.Linear(2, 2)
    groups = biases.parameter_groups(
        model,
        weight_decay=0.1,
        learning_rate=1e-3,
        bias_learning_rate=1e-4,
        bias_weight_decay=0.01,
    )
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    assert [g["lr"] for g in optimizer.param_groups] == [1e-3, 1e-4]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.01]
    assert [g["name"] for g in optimizer.param_groups] == ["weights", "biases"]


def test_without_a_learning_rate_the_optimizers_own_is_used():
    groups = biases.parameter_groups(nn.Linear(2, 2), weight_decay=0.1)
    assert {g["lr"] for g in torch.optim.AdamW(groups, lr=0.5).param_groups} == {0.5}


@pytest.mark.parametrize(
    "arguments",
    [{"weight_decay": -0.1}, {"weight_decay": math.nan}, {"weight_decay": 0, "learning_rate": -1}],
    ids=str,
)
def test_numbers_below_0_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 0"):
        biases.parameter_groups(nn.Linear(2, 2), **arguments)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="no parameters"):
        biases.parameter_groups(nn.ReLU(), weight_decay=0.1)


# --- penalty ---


def test_the_penalty_is_the_sum_over_the_biases_and_has_their_gradient():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([3.0, -1.0]))
        model[1].bias.fill_(100)
        model[2].bias.fill_(2)
    penalty = biases.bias_penalty(model, l1=0.5, l2=0.1)
    assert penalty.item() == pytest.approx(0.5 * 6 + 0.1 * 14)
    penalty.backward()
    assert model[0].bias.grad.tolist() == pytest.approx([0.5 + 0.6, -0.5 - 0.2])
    assert model[0].weight.grad is None
    assert model[1].bias.grad is None


def test_frozen_biases_and_models_without_biases_have_no_penalty():
    assert biases.bias_penalty(nn.Linear(2, 2).requires_grad_(False), l2=1).item() == 0
    assert biases.bias_penalty(nn.Linear(2, 2, bias=False), l1=1).item() == 0
    with pytest.raises(ValueError, match="l1 is -1"):
        biases.bias_penalty(nn.Linear(2, 2), l1=-1)


# --- recentring ---


def drifted(*layers):
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in model:
            if getattr(layer, "bias", None) is not None and layer.weight.dim() > 1:
                layer.bias.add_(5)
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
    return model.double()


IMAGES = (4, 3, 6, 6)
ROWS = (16, 8)


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize(
    ("layers", "shape", "into", "left"),
    [
        ((nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), IMAGES, "running_mean", 0),
        ((nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8)), IMAGES, "nothing", 0),
        ((nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)), IMAGES, "nothing", 0.3),
        ((nn.Linear(8, 8), nn.LayerNorm(8)), ROWS, "nothing", 0.5),
        ((nn.Linear(8, 8), nn.Identity(), nn.Linear(8, 3)), ROWS, "next bias", 0),
        ((nn.Linear(8, 4), nn.Softmax(dim=-1)), ROWS, "nothing", 0.5),
    ],
    ids=["batch norm", "instance norm", "group norm", "layer norm", "linear", "softmax"],
)
def test_the_offset_is_taken_out_and_the_function_stays(layers, shape, into, left, mode):
    model = drifted(*layers).train(mode == "training")
    x = torch.randn(shape, dtype=torch.float64)
    # A training pass moves the running statistics: compare copies.
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(x)
    model.load_state_dict(state)
    row = biases.recentre(model, ["0"])[0]
    assert torch.allclose(model(x), expected, atol=1e-9)
    assert row.into == into
    assert row.offset == pytest.approx(5, abs=0.5)
    assert row.rms_before > 4.5
    assert row.rms_after <= left
    assert float(model[0].bias.detach().mean()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ((nn.Linear(8, 8), nn.ReLU()), "ReLU follows"),
        ((nn.Linear(8, 8),), "what follows is open"),
        ((nn.Linear(8, 8), nn.Linear(8, 8, bias=False)), "Linear follows"),
        ((nn.Linear(8, 8), nn.Dropout(0.5), nn.LayerNorm(8)), "Dropout follows"),
    ],
)
def test_where_the_function_would_change_the_bias_is_left_with_the_reason(layers, reason):
    model = drifted(*layers)
    before = model[0].bias.clone()
    row = biases.recentre(model)[0]
    assert torch.equal(model[0].bias, before)
    assert (row.offset, row.into) == (0, "")
    assert reason in row.reason


def test_on_request_the_offset_is_taken_out_although_the_function_changes():
    model = drifted(nn.Linear(8, 8), nn.ReLU())
    row = biases.recentre(model, keep_function=False)[0]
    assert float(model[0].bias.detach().mean()) == pytest.approx(0, abs=1e-9)
    assert "the function changed" in row.reason


def test_a_layer_that_is_used_twice_is_left():
    layer = nn.Linear(8, 8)
    for last in (nn.ReLU(), nn.LayerNorm(8)):
        model = nn.Sequential(layer, nn.LayerNorm(8), layer, last)
        assert biases.recentre(model)[0].into == ""


def test_a_bias_that_two_layers_share_is_left_and_takes_no_offset():
    model = drifted(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU())
    model[2].bias = model[0].bias
    assert biases.recentre(model)[0].reason == "tied"
    pair = drifted(nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    pair[3].bias = pair[1].bias
    assert biases.recentre(pair, ["0"])[0].into == ""


def test_a_frozen_bias_takes_no_offset():
    model = drifted(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].requires_grad_(False)
    assert biases.recentre(model, ["0"])[0].into == ""


def test_frozen_biases_are_left():
    model = drifted(nn.Linear(8, 8), nn.LayerNorm(8)).requires_grad_(False)
    assert biases.recentre(model)[0].reason == "frozen"


def test_a_wrong_name_changes_nothing():
    model = drifted(nn.Linear(8, 8), nn.LayerNorm(8))
    before = model[0].bias.clone()
    with pytest.raises(ValueError, match="'1' is no linear"):
        biases.recentre(model, ["0", "1"])
    with pytest.raises(TypeError, match="pass a list"):
        biases.recentre(model, "0")
    assert torch.equal(model[0].bias, before)


def test_a_batch_confirms_that_the_function_stays():
    model = drifted(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(16, 8, dtype=torch.float64)
    assert biases.recentre(model, batch=x)[0].into == "nothing"


def test_if_the_outputs_differ_everything_is_restored():
    # Of a sequence, a batch norm normalises the positions; here there are as many as units.
    model = drifted(nn.Linear(8, 8), nn.BatchNorm1d(8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sequences = torch.randn(4, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias.add_(torch.arange(8))
    drift = model[0].bias.clone()
    with pytest.raises(RuntimeError, match="more than rounding"):
        biases.recentre(model, batch=sequences)
    assert torch.equal(model[0].bias, drift)
    assert torch.equal(model[1].running_mean, before["1.running_mean"])
    with pytest.raises(ValueError, match="keep_function=False changes it"):
        biases.recentre(model, batch=sequences, keep_function=False)


def test_the_recentring_prints_as_a_table():
    text = str(biases.recentre(drifted(nn.Linear(8, 8), nn.LayerNorm(8))))
    assert text.splitlines()[0].split()[0] == "bias"
    assert "0.bias" in text


# --- audit ---


def network(offset=0.0, spread=0.0):
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight.normal_(0, 1 / math.sqrt(6))
        model[0].bias.normal_(0, 1).mul_(spread).add_(offset)
    return model


def test_small_biases_need_no_advice():
    model = network()
    report = biases.audit(model, torch.randn(500, 6))
    row = report.of("0.bias")
    assert row.advice == ""
    assert row.ratio == 0
    assert row.scale == pytest.approx(1, rel=0.2)
    assert report.subsets == ()
    assert report.samples == 500


def test_the_scale_does_not_depend_on_the_bias():
    inputs = torch.randn(500, 6)
    scales = []
    for offset in (0.0, 1e4):
        torch.manual_seed(1)
        scales.append(biases.audit(network(offset), inputs).of("0.bias").scale)
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)


def test_one_offset_for_all_units_is_told_from_units_that_differ():
    inputs = torch.randn(100, 6)
    common = biases.audit(network(offset=5), inputs).of("0.bias")
    assert common.common > 0.99
    assert "standardise inputs and targets, then recentre()" in common.advice
    spread = biases.audit(network(spread=5), inputs).of("0.bias")
    assert spread.common < 0.9
    assert "bias_learning_rate" in spread.advice


def test_the_drift_is_measured_against_an_earlier_state():
    model = network(spread=3)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randn(100, 6)
    assert biases.audit(model, inputs, initial=initial).of("0.bias").drift == 0
    with torch.no_grad():
        model[0].bias += 0.6
    row = biases.audit(model, inputs, initial=initial).of("0.bias")
    assert row.drift == pytest.approx(0.6, rel=1e-5)
    assert row.common == pytest.approx(1)
    assert row.ratio == pytest.approx(0.6 / row.scale, rel=1e-4)
    assert "bias_penalty(l2=" in row.advice


def test_a_single_extreme_unit_is_named():
    model = network(spread=0.01)
    with torch.no_grad():
        model[0].bias[5] = -1.4
    row = biases.audit(model, torch.randn(300, 6)).of("0.bias")
    assert (row.low, "unit 5 is extreme" in row.advice) == (pytest.approx(-1.4), True)


def test_a_bias_before_a_batch_norm_is_redundant():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    row = biases.audit(model, torch.randn(8, 3, 5, 5)).of("0.bias")
    assert "bias=False" in row.advice
    plain = nn.functional.conv2d(torch.zeros(1, 3, 5, 5), model[0].weight)
    assert plain.abs().max() == 0
    assert row.scale > 0


def test_the_units_of_a_convolution_are_its_channels():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([0.0, 100.0]))
    row = biases.audit(model, torch.randn(8, 3, 5, 5)).of("0.bias")
    assert row.scale == 0
    assert row.advice == "no unit varies over these inputs"


def test_the_class_that_the_heads_bias_stands_for_is_named():
    model = network()
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([0.0, 2.0, 0.0]))
    targets = torch.tensor([1] * 180 + [0] * 10 + [2] * 10)
    report = biases.audit(model, torch.randn(200, 6), targets)
    [subset] = report.subsets
    assert (subset.kind, subset.where, subset.share) == ("class_imbalance", "class 1", 0.9)
    assert "largest at unit 1, the class of 90% of the targets" in report.of("2.bias").advice


def test_an_offset_of_the_targets_is_found():
    [subset] = biases.audit(network(), torch.randn(50, 6), 100 + torch.randn(50, 3)).subsets
    assert subset.kind == "target_offset"
    assert subset.effect.startswith("mean 100, standard deviation 1.04")


def test_duplicated_rows_are_named():
    inputs = torch.randn(15, 6)
    inputs[[3, 7, 11]] = inputs[3].clone()
    [subset] = biases.audit(network(), inputs).subsets
    assert (subset.kind, subset.where) == ("duplicated_rows", "rows 3, 7, 11")
    assert subset.share == 2 / 15


def test_a_few_duplicated_rows_are_not_reported():
    inputs = torch.randn(100, 6)
    inputs[7] = inputs[3]
    assert biases.audit(network(), inputs).subsets == ()


def test_constant_features_are_named_unless_they_are_0():
    inputs = torch.randn(40, 6)
    inputs[:, 2], inputs[:, 4] = 7.0, 0.0
    [subset] = biases.audit(network(), inputs).subsets
    assert (subset.kind, subset.where) == ("constant_features", "features 2")
    assert "7" in subset.effect


def test_batches_come_as_tensors_pairs_or_dicts_and_give_the_same_numbers():
    class Named(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    model, x, y = network(spread=1), torch.randn(60, 6), torch.arange(60) % 3
    whole = biases.audit(model, x, y)
    pairs = biases.audit(model, [(x[:20], y[:20]), (x[20:], y[20:])])
    dicts = biases.audit(Named(model), [{"x": x, "labels": y}])
    scale = whole.of("0.bias").scale
    assert pairs.of("0.bias").scale == pytest.approx(scale)
    assert dicts.of("inner.0.bias").scale == pytest.approx(scale)
    assert (pairs.samples, dicts.samples) == (60, 60)


def test_the_model_is_as_it_was_afterwards_also_after_an_error():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    biases.audit(model, torch.randn(30, 6, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(RuntimeError):
        biases.audit(model, torch.ones(30, 5))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False, True]
    assert not any(module._forward_hooks for module in model)
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_transformers_layers_are_measured():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    report = biases.audit(nn.TransformerEncoder(layer, 1), torch.randn(5, 3, 8))
    assert report.of("layers.0.linear1.bias").scale > 0


def test_the_audit_prints_as_two_tables():
    text = str(biases.audit(network(offset=5), torch.randn(50, 6), 100 + torch.randn(50, 3)))
    assert "0.bias" in text
    assert "target_offset" in text
    assert "No one-sided subset" in str(biases.audit(network(), torch.randn(50, 6)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: biases.audit(nn.ReLU(), torch.randn(5, 6)), ValueError, "no linear"),
        (lambda: biases.audit(network(), []), ValueError, "no batch"),
        (lambda: biases.audit(network(), [3]), TypeError, "A batch is a int"),
        (lambda: biases.audit(network(), {"x": torch.randn(5, 6)}), TypeError, "list of dicts"),
        (
            lambda: biases.audit(network(), torch.randn(5, 6), torch.zeros(4)),
            ValueError,
            "5 inputs and 4 targets",
        ),
        (
            lambda: biases.audit(network(), [torch.randn(5, 6)], torch.zeros(5)),
            ValueError,
            "into the batches",
        ),
        (
            lambda: biases.audit(network(), torch.randn(5, 6), initial={}),
            ValueError,
            "has no '0.bias'",
        ),
        (
            lambda: biases.audit(
                nn.Linear(6, 2), torch.randn(5, 6), initial={"bias": torch.zeros(3)}
            ),
            ValueError,
            "shape",
        ),
    ],
    ids=["no bias", "no batch", "number", "dict", "lengths", "targets", "missing", "shape"],
)
def test_what_cannot_be_audited_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()
