"""`biases` treats biases apart from weights: groups, penalty, recentring."""

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
        ((nn.Linear(8, 8),), "the next operation is unknown"),
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
