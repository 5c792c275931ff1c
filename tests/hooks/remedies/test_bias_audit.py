"""`biases.audit` measures the biases of a model on a batch, and advises only where it is needed."""

import math

import pytest
import torch
from torch import nn

from trainvitals.remedies import biases


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
