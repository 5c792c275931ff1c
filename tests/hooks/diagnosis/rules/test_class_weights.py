"""Weights of classes balance their frequencies; weights that follow them are reported."""

import pytest
import torch
from tests.helpers.first_steps import the_same_weights_every_time, train  # noqa: F401
from torch import nn

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.class_imbalance import ClassImbalance
from trainvitals.diagnosis.supervision import loss_kinds
from trainvitals.wire import Event, EventKind


def run(weights, counts=(360, 110, 42), batches=8):
    history = Example(20).scalars(loss=[1.0] * 20).history
    known = {"target_shape": "(64,)", "classes": float(len(counts)), "class_weights": weights}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", known))
    text = f"{len(counts)} classes in {batches} batches"
    seen = {str(i): float(n) for i, n in enumerate(counts)}
    history.add(Event(9, 0.0, EventKind.CLASS_HISTOGRAM, text, seen))
    return [*ClassImbalance().check(history)]


def test_weights_that_grow_with_the_frequencies_are_a_warning():
    [found] = run("0.7,0.2,0.1")
    assert found.severity == "warning"
    assert found.evidence[0].seen == pytest.approx(7)


@pytest.mark.parametrize(
    "weights",
    ["0.1,0.3,0.7", "1,1,1", "", "1.2,1,0.9", "0.7,0.05,0.2"],
    ids=["balanced", "equal", "none", "nearly equal", "not in their order"],
)
def test_other_weights_are_not(weights):
    assert not run(weights)


def test_classes_that_are_about_as_frequent_say_nothing():
    assert not run("0.7,0.2,0.1", counts=(150, 130, 120))


def test_one_batch_says_nothing():
    assert not run("0.7,0.2,0.1", batches=1)


def test_the_weights_of_a_cross_entropy_are_read_in_its_graph():
    weight = torch.linspace(0.5, 1.4, 10)
    history = train(nn.Linear(16, 10), nn.CrossEntropyLoss(weight))
    assert loss_kinds(history)[0].class_weights == pytest.approx(weight.tolist(), rel=1e-3)
    assert loss_kinds(train(nn.Linear(16, 10)))[0].class_weights == ()
