"""The samples of a batch are measured as in the batch, and as one at a time where that is equal."""

import pytest
import torch
from torch import nn

from trainvitals.replay.samples import losses_of, measured


def batch(rows=6, *, bad=None, place=None):
    torch.manual_seed(0)
    x, y = torch.randn(rows, 8), torch.randint(0, 3, (rows,))
    if bad is not None:
        x[bad, 1] = place
    return x, y


def network(*middle):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), *middle, nn.ReLU(), nn.Linear(16, 3))


def test_losses_and_gradients_are_those_of_each_sample_alone():
    model, (x, y) = network(), batch()
    found = measured(model, (x, y), nn.CrossEntropyLoss())
    for row in range(6):
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(x[row : row + 1]), y[row : row + 1])
        loss.backward()
        norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
        assert found.losses[row] == pytest.approx(loss.item(), rel=1e-5)
        assert found.gradient_norms[row] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1])),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(reduction="sum"),
        lambda p, t: nn.functional.cross_entropy(p, t, ignore_index=1),
    ],
    ids=["class weights", "ignored targets", "sum", "a function"],
)
def test_the_loss_of_the_batch_is_that_of_one_call_with_all_rows(loss):
    model, (x, y) = network(), batch()
    found = measured(model, (x, y), loss)
    assert found.total == pytest.approx(loss(model(x), y).item(), rel=1e-5)


def test_with_batch_norm_the_loss_is_that_of_the_batch():
    model, (x, y) = network(nn.BatchNorm1d(16)), batch()
    found = measured(model, (x, y), nn.CrossEntropyLoss())
    whole = nn.functional.cross_entropy(network(nn.BatchNorm1d(16))(x), y)
    assert found.total == pytest.approx(whole.item(), rel=1e-5)


def test_a_function_is_called_with_one_row_at_a_time():
    prediction = torch.randn(4, 3, requires_grad=True)
    target = torch.randint(0, 3, (4,))
    each = losses_of(lambda p, t: nn.functional.cross_entropy(p, t), prediction, target, 4)
    whole = nn.functional.cross_entropy(prediction, target, reduction="none")
    assert torch.allclose(torch.stack(each), whole)


def test_the_loss_module_is_not_changed():
    loss = nn.CrossEntropyLoss()
    measured(network(), batch(), loss)
    assert loss.reduction == "mean"


def test_one_bad_row_is_named_although_batch_norm_spreads_it():
    model = network(nn.BatchNorm1d(16))
    found = measured(model, batch(bad=2, place=float("nan")), nn.CrossEntropyLoss())
    assert found.nonfinite_in[2] == "input"
    assert found.nonfinite_in == ["", "", "input", "", "", ""]
    others = [norm for row, norm in enumerate(found.gradient_norms) if row != 2]
    assert all(norm > 0 for norm in others)


class Logarithm(nn.Module):
    def forward(self, x):
        return x[:, :3].log()


def test_the_module_in_which_a_row_is_not_finite_first_is_named():
    x = torch.rand(5, 8) + 0.5
    x[3, 0] = -1.0
    model = nn.Sequential(Logarithm(), nn.Linear(3, 3))
    found = measured(model, (x, torch.zeros(5, dtype=torch.long)), nn.CrossEntropyLoss())
    assert found.nonfinite_in == ["", "", "", "0", ""]
    assert found.places == ["input", "target", "0", "1", "model"]


def test_a_target_that_is_not_finite_is_named():
    x, target = torch.randn(4, 8), torch.tensor([[0.0], [1.0], [float("nan")], [2.0]])
    found = measured(nn.Linear(8, 1), (x, target), nn.MSELoss())
    assert found.nonfinite_in == ["", "", "target", ""]


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 1)

    def forward(self, x, labels):
        return {"loss": (self.linear(x)[:, 0] - labels).square().mean()}


def test_a_model_that_returns_its_loss_runs_one_sample_at_a_time():
    x, labels = torch.randn(4, 8), torch.tensor([0.0, 0.0, 90.0, 0.0])
    found = measured(WithLoss(), {"x": x, "labels": labels}, None)
    assert max(range(4), key=lambda row: found.losses[row]) == 2


def test_without_a_loss_there_is_an_error():
    with pytest.raises(ValueError, match="returns no loss"):
        measured(network(), batch()[0], None)
