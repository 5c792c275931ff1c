"""Targets that are all one number are named; a generator and a contrastive loss are not."""

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from helpers.wiring_runs import Run, Seen, train  # noqa: E402

STEPS = 200


def seen(outputs: int, loss, targets: Tensor, steps: int = STEPS) -> Seen:
    torch.manual_seed(0)
    x = torch.randn(len(targets), 8)
    model = layers(8, 64, outputs)
    return train(Run(model, loss, data=(x, targets), gives_tensors=True), steps)


def labels(o: Tensor, y: Tensor) -> Tensor:
    return 20 * F.binary_cross_entropy_with_logits(20 * o, y)


def soft(o: Tensor, y: Tensor) -> Tensor:
    """Return the cross entropy between two softmaxes, as of the grades of a list."""
    return -(y.softmax(1) * o.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_labels_that_are_all_the_same_are_trivial(value):
    found = seen(2, labels, torch.full((400, 2), value))
    assert found.headline == "trivial_target"
    assert "every target that counts" in found.summary


def test_classes_that_are_all_the_same_are_trivial():
    found = seen(3, lambda o, y: F.cross_entropy(20 * o, y), torch.ones(400).long())
    assert "trivial_target" in found.alarms


def test_grades_that_are_all_0_are_no_supervision():
    found = seen(6, soft, torch.zeros(400, 6), 12)
    assert (found.headline, found.first_alarm < 4) == ("no_supervision", True)


def of_pairs(o: Tensor, y: Tensor) -> Tensor:
    """Return a contrastive loss: the partner of each sample is the first of the candidates."""
    return F.cross_entropy(20 * torch.cat((o, o.roll(1, 0) - 1), 1)[:, :4], y)


HEALTHY = {
    "two labels": (2, labels, torch.randn(400, 2).gt(0).float()),
    "a generator whose critic resists": (
        1,
        lambda o, y: F.binary_cross_entropy_with_logits(o.tanh(), y),
        torch.ones(400, 1),
    ),
    "pairs": (3, of_pairs, torch.zeros(400).long()),
    "residuals of an equation": (1, lambda o, y: F.mse_loss(o, y), torch.zeros(400, 1)),
    "some grades": (6, soft, torch.randint(5, (400, 6)).float()),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_other_targets_are_not_named(name):
    assert not {"trivial_target", "no_supervision"} & seen(*HEALTHY[name]).alarms
