"""TV305, TV502, TV704, TV801, TV805: last biases, states and inputs, in short real trainings."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.first_steps import by_code, record, the_same_weights_every_time  # noqa: F401

FREQUENCIES = torch.tensor([0.9, 0.07, 0.02, 0.008, 0.002])


def findings(model: nn.Module, loss, x: Tensor, y: Tensor, *, steps=40, rate=1e-3) -> dict:
    """Return the findings of a training, by the rule's code."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    return by_code(record(model, loss, x, y, optimizer, steps=steps))


def classifier(bias: Tensor) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5))
    model[2].bias.data = bias
    return model


def unequal_classes() -> tuple[Tensor, Tensor]:
    y = torch.multinomial(FREQUENCIES, 4000, True)
    return 0.5 * torch.eye(5, 12)[y] + torch.randn(4000, 12), y


# A last bias of classes.


def test_a_last_bias_with_the_logarithms_in_another_order_is_named():
    wrong = classifier(FREQUENCIES.flip(0).log())
    found = findings(wrong, F.cross_entropy, *unequal_classes())
    assert found["TV305"].severity == "warning"
    assert found["TV305"].where == "2.bias"
    assert "TV805" not in found or found["TV805"].severity == "info"


def test_a_loss_that_starts_at_the_entropy_has_not_fallen_to_it():
    right = classifier(FREQUENCIES.log())
    found = findings(right, F.cross_entropy, *unequal_classes(), steps=120)
    assert "TV305" not in found
    assert "input is ignored" not in found["TV805"].summary


def test_equal_biases_with_unequal_classes_are_an_imbalance():
    equal = classifier(torch.zeros(5))
    found = findings(equal, F.cross_entropy, *unequal_classes())
    assert found["TV805"].severity == "warning"


# A last bias of labels.


@pytest.mark.parametrize(("bias", "is_noted"), [(0.0, True), (-5.0, False)])
def test_logits_far_from_the_odds_of_rare_labels_are_noted(bias, is_noted):
    x = torch.randn(4000, 12)
    y = (torch.rand(4000, 40) < 0.007).float()
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 40))
    nn.init.constant_(model[2].bias, bias)
    found = findings(model, nn.BCEWithLogitsLoss(), x, y, steps=5)
    assert ("TV704" in found) is is_noted
    if is_noted:
        assert found["TV704"].severity == "info"
        assert found["TV704"].where == "2.bias"


def test_labels_that_are_weighted_have_no_odds_to_start_from():
    x, y = torch.randn(4000, 12), (torch.rand(4000, 40) < 0.007).float()
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(100.0))
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 40))
    assert "TV704" not in findings(model, loss, x, y, steps=5)


# Recurrent layers.


class Series(nn.Module):
    """An LSTM and a head on each of its states."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, units, batch_first=True), nn.Linear(units, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def waves(scale: float) -> tuple[Tensor, Tensor]:
    """Return sums of two sines of different frequencies, and their next values."""
    at = torch.arange(25) + 100 * torch.rand(512, 1)
    series = scale * (torch.sin(0.4 * at) + torch.sin(1.3 * at))[..., None]
    return series[:, :-1], series[:, 1:]


@pytest.mark.parametrize(("scale", "is_found"), [(1e-3, True), (0.02, False), (1.0, False)])
def test_inputs_near_zero_of_a_recurrent_layer_are_found(scale, is_found):
    found = findings(Series(16), F.mse_loss, *waves(scale), steps=5)
    assert ("TV801" in found) is is_found
    if is_found:
        assert found["TV801"].where == "rnn"
        assert "nan" not in found["TV801"].summary


@pytest.mark.parametrize(("units", "is_found"), [(1, True), (16, False)])
def test_a_state_of_one_number_is_found_if_the_loss_stays_high(units, is_found):
    found = findings(Series(units), F.mse_loss, *waves(1.0), steps=150, rate=1e-2)
    assert ("TV502" in found) is is_found
    if is_found:
        assert found["TV502"].severity == "warning"
        assert found["TV502"].where == "rnn"


# One label for each sample.


@pytest.mark.parametrize(
    ("share", "weight", "is_noted"),
    [(0.03, None, True), (0.97, None, True), (0.2, None, False), (0.03, 30.0, False)],
)
def test_a_rare_label_is_noted_with_the_weight_that_balances_it(share, weight, is_noted):
    x, y = torch.randn(4000, 12), (torch.rand(4000, 1) < share).float()
    loss = nn.BCEWithLogitsLoss(pos_weight=None if weight is None else torch.tensor(weight))
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 1))
    found = findings(model, loss, x, y, steps=20)
    assert ("TV805" in found) is is_noted
    if is_noted:
        assert found["TV805"].severity == "info"
        scope = {"torch": torch, "F": F, "prediction": torch.zeros(100, 1)}
        scope["y"] = (torch.arange(100.0)[:, None] < 100 * share).float()
        scope["prediction"].requires_grad_()
        exec(found["TV805"].fix, scope)
        scope["loss"].backward()  # the weight of both labels together is about equal
        assert abs(float(scope["prediction"].grad.sum())) < 0.1
