"""A last bias that moves far is no fault of a model that has learned more than a constant."""

import numpy as np
import pytest

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.bias_drift import BiasDrift
from trainvitals.diagnosis.supervision import loss_of_constant
from trainvitals.wire import Event, EventKind, Place, Stat, Stream


def run(loss_end, *, constant=True, steps=120, terms="", target_std=1.0):
    """Return a regression whose last bias moves on to five times the output's deviation."""
    head = Place("head.bias", kind="bias", shape=(4,), depth=1, module="head", flags=("output",))
    output = Place("head", kind="Linear", depth=1, flags=("output",))
    targets = {"target_std": target_std} if constant else {}
    if terms:
        targets = {"loss_of_constant": 1.0}
    example = Example(steps).scalars(loss=np.linspace(2.0, loss_end, steps), **targets)
    drift = {Stat.DRIFT_RMS: np.linspace(0, 5, steps)}
    example.stream(Stream.WEIGHT, [head], {head.name: drift})
    example.stream(Stream.ACTIVATION, [output], {output.name: {Stat.SAMPLE_STD: 1.0}})
    text, known = (terms.replace(",", " + ") or "MSELoss"), {"reduction": "mean"}
    if terms:
        known["terms"] = terms
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, text, known))
    return example.history


@pytest.mark.parametrize(
    ("loss_end", "constant", "found"),
    [(0.9, True, 1), (0.02, True, 0), (1.9, False, 1), (0.9, False, 0)],
    ids=["a constant does as well", "far better", "not learned", "fallen by half"],
)
def test_it_is_judged_by_what_a_constant_would_do(loss_end, constant, found):
    assert len([*BiasDrift().check(run(loss_end, constant=constant))]) == found


@pytest.mark.parametrize(("loss_end", "found"), [(1.8, 1), (0.9, 0)])
def test_the_head_of_a_sum_is_judged_by_the_fall_of_the_sum(loss_end, found):
    """The other head may need the training's whole length to do better than a constant."""
    history = run(loss_end, terms="CrossEntropyLoss,SmoothL1Loss")
    assert loss_of_constant(history) == 1.0
    assert len([*BiasDrift().check(history)]) == found


@pytest.mark.parametrize(("target_std", "found"), [(1.0, 1), (6.0, 0)])
def test_a_drift_within_the_deviation_of_the_targets_is_none(target_std, found):
    """The outputs of a network that still predicts a constant differ little."""
    history = run(1.1 * target_std**2, target_std=target_std)
    assert len([*BiasDrift().check(history)]) == found
