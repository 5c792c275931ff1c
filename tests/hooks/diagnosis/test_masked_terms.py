"""Real small trainings: a term of the loss in which no element counts."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from helpers.wiring_runs import Run, Seen, train  # noqa: E402

CLASSES = 3


def seen(box: Callable[[Tensor, Tensor], Tensor], steps: int = 48) -> Seen:
    """Train a class and the four numbers of a box; `box` returns the loss of the boxes."""
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    boxes = x @ torch.randn(8, 4) / 3
    kinds = (x @ torch.randn(8, CLASSES)).argmax(1, keepdim=True)

    def loss(o: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(o[:, :CLASSES], y[:, 0].long()) + box(o[:, CLASSES:], y[:, 1:])

    model = layers(8, 32, CLASSES + 4)
    return train(Run(model, loss, data=(x, torch.cat((kinds, boxes), 1))), steps)


def matched(largest: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of the boxes whose distance from the target is at most this one."""

    def box(o: Tensor, y: Tensor) -> Tensor:
        mask = ((o - y).detach().abs().amax(1) < largest).float()
        each = F.smooth_l1_loss(o, y, reduction="none").mean(1)
        return (each * mask).sum() / mask.sum().clamp_min(1)

    return box


def selected(least: float) -> Callable[[Tensor, Tensor], Tensor]:
    def box(o: Tensor, y: Tensor) -> Tensor:
        rows = y[:, 0] > least
        return F.smooth_l1_loss(o[rows], y[rows], reduction="sum")

    return box


@pytest.mark.parametrize("box", [matched(0.0), selected(100.0)])
def test_a_term_without_elements_is_inactive(box):
    found = seen(box)
    assert found.headline == "loss_term_inactive"
    assert "no element has counted in SmoothL1Loss since step 0" in found.summary


@pytest.mark.parametrize("box", [matched(1.5), selected(0.8), F.smooth_l1_loss])
def test_a_term_of_some_elements_is_active(box):
    assert "loss_term_inactive" not in seen(box).alarms


def test_a_term_without_elements_in_the_first_steps_is_active():
    steps = iter(range(100))

    def box(o: Tensor, y: Tensor) -> Tensor:
        return (selected(100.0) if next(steps) < 10 else selected(0.0))(o, y)

    assert "loss_term_inactive" not in seen(box).alarms
