"""TV806 fires on predictions that are one class, and not on a network that has yet to begin."""

import numpy as np
import pytest

from trainvitals.diagnosis.causes import headline_of
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.class_collapse import ClassCollapse
from trainvitals.diagnosis.rules.trivial_target import TrivialTarget
from trainvitals.wire import Event, EventKind, Place, Stream

STEPS = 200
AT = np.arange(STEPS)
CONSTANT = np.log(10)
SPOILT = np.where(AT < 100, 2.3 * np.exp(-AT / 30), 2.4)
"""A loss that falls for 100 steps and is then that of a constant prediction."""


def run(
    *, predicted=1.0, loss=SPOILT, targets=0.2, classes=10, head=10, kind="CrossEntropyLoss", **more
):
    scalars = {"supervised_share": 1.0, "target_mean": np.sin(AT), **more}
    scalars |= {"predicted_majority_share": predicted, "target_majority_share": targets}
    weight = Place("2.weight", kind="weight", shape=(head, 8), module="2", flags=("output",))
    example = Example(STEPS).scalars(loss=loss, **scalars).stream(Stream.WEIGHT, [weight], {})
    event = Event(0, 0.0, EventKind.LOSS_KIND, kind, {"classes": float(classes)})
    example.history.add(event)
    return example.history


def findings(**changes):
    return list(ClassCollapse().check(run(**changes)))


def test_predictions_of_one_class_are_named_with_their_first_step():
    [finding] = findings(predicted=np.where(AT < 120, 0.2, 0.97))
    assert finding.since_step == 120
    assert finding.fix == ""


def test_a_loss_far_below_that_of_a_constant_is_weighted_and_not_a_trivial_target():
    low = 2.3 * np.exp(-AT / 4) + 0.005
    [finding] = findings(loss=low)
    assert finding.since_step == 0
    assert "F.cross_entropy(prediction, y)" in finding.fix
    assert not list(TrivialTarget().check(run(loss=low)))
    assert list(TrivialTarget().check(run(loss=low, predicted=0.2)))
    assert headline_of(Engine().examine(run(loss=low))).rule == "class_collapse"


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": 2.3 - 0.002 * AT},
        {"loss": np.full(STEPS, 2.3)},
        {"learning_rate__0": np.linspace(0, 1, STEPS)},
        {"classes": 1000, "head": 1000},
        {"predicted": np.where(AT < 160, 0.2, 1.0)},
        {"predicted": np.where(AT % 7 == 6, 0.5, 1.0)},
    ],
    ids=["falls", "flat", "warm-up", "1000 classes", "for 40 steps", "now and then"],
)
def test_a_network_that_has_yet_to_begin_is_not_reported(changes):
    assert findings()
    assert not findings(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": 0.9},
        {"supervised_share": 0.2},
        {"head": 64},
        {"kind": "MSELoss"},
        {"kind": "CrossEntropyLoss + MSELoss"},
    ],
    ids=["one class", "padding", "contrastive", "regression", "two terms"],
)
def test_predictions_that_may_be_one_class_are_left_out(changes):
    assert not findings(**changes)


def unmeasured_after(step):
    """Predictions of one class, measured at each step until `step` and not again."""
    return np.where(step >= AT, 1.0, np.nan)


def test_a_weighted_loss_that_falls_further_between_two_measurements_stays_reported():
    # Seen: 0.014 at the newest measured batch, 0.005 for the next 100 steps.
    low = 2.3 * np.exp(-AT / 4) + np.where(AT <= 117, 0.014, 0.005)
    [finding] = findings(loss=low, predicted=unmeasured_after(117))
    assert "weighs this class" in finding.summary


@pytest.mark.parametrize(("newest", "named"), [(0.7, True), (0.45, False), (0.2, False)])
def test_a_collapse_goes_on_while_the_predictions_are_uneven(newest, named):
    low = 2.3 * np.exp(-AT / 4) + 0.005
    predicted = np.where(AT < STEPS - 5, 1.0, newest)
    assert bool(findings(loss=low, predicted=predicted)) == named


def test_a_loss_that_falls_from_that_of_a_constant_after_the_newest_measurement_is_not_reported():
    begins = np.where(AT <= 117, 2.3, 0.2) + 0.3 * (AT < 20)
    assert findings(loss=np.full(STEPS, 2.3) + 0.3 * (AT < 20), predicted=unmeasured_after(117))
    assert not findings(loss=begins, predicted=unmeasured_after(117))
