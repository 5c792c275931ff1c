"""TV805 reports imbalance as a note, and as a warning where nothing in the loss answers it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from trainvitals.api.schema import Severity  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.rules.class_imbalance import ClassImbalance  # noqa: E402


def check(share: float, *, weighted=False, classes=5, steps=12, informative=True):
    """Train on `share` of class 0 and return the findings."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    y = torch.where(torch.rand(4000) < share, 0, torch.randint(1, classes, (4000,)))
    x = nn.functional.one_hot(y, classes).float() * informative + 0.5 * torch.randn(4000, classes)
    weight = 1 / torch.bincount(y, minlength=classes) if weighted else None
    model, history = layers(classes, 32, classes), History()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    capture = Capture(model, optimizer, emit=history.add, every=1)
    for step in range(steps):
        at = torch.arange(32 * step, 32 * step + 32) % len(y)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[at]), y[at], weight)
        capture.loss(loss)
        loss.backward()
        optimizer.step()
    capture.detach()
    return list(ClassImbalance().check(history))


def test_an_unweighted_loss_on_ninety_percent_of_one_class_is_a_warning():
    [found] = check(0.9)
    assert found.severity is Severity.WARNING
    assert "weighs all samples alike" in found.summary


def test_a_loss_with_class_weights_is_a_note_only():
    [found] = check(0.9, weighted=True)
    assert found.severity is Severity.INFO


def test_a_binary_task_is_a_note_while_the_model_learns():
    assert [f.severity for f in check(0.95, classes=2)] == [Severity.INFO]


def test_a_model_that_learns_the_frequencies_alone_is_a_warning():
    [found] = check(0.95, classes=2, steps=300, informative=False)
    assert found.severity is Severity.WARNING
    assert "input is ignored" in found.summary


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_balanced_classes_and_a_small_imbalance_are_not_mentioned(share):
    assert not check(share)
