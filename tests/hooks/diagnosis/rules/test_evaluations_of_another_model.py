"""TV603 reports evaluations whose loss does not change although the model learns."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.parameter_not_updated import ParameterNotUpdated
from trainvitals.wire import Event, EventKind

FALLING = 2.3 * np.exp(-np.arange(200) / 60)


def history(validation, loss=FALLING):
    """Return 200 steps with an evaluation in each 25th."""
    every = np.full(200, np.nan)
    every[24::25] = validation
    run = Example(200).scalars(loss=loss, loss__validation=every).history
    run.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", {"classes": 10.0}))
    return run


def test_the_split_and_the_first_of_the_equal_evaluations_are_named():
    [found] = ParameterNotUpdated().check(history([2.4, *[2.30712] * 7]))
    assert (found.severity, found.since_step) == (Severity.WARNING, 49)
    assert "validation loss was 2.31 in 7 evaluations" in found.summary
    assert found.statistic == "loss/validation"


@pytest.mark.parametrize(
    ("validation", "loss"),
    [
        (2.3 + 1e-6 * np.arange(8), FALLING),
        ([0.0] * 8, FALLING),
        ([2.3, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3, 2.2], FALLING),
        ([0.1] * 8, np.full(200, 0.1)),
    ],
    ids=["the last digits", "zero", "it has changed", "a training that has ended"],
)
def test_other_validation_losses_are_no_finding(validation, loss):
    assert [*ParameterNotUpdated().check(history(validation, loss))] == []


def test_it_explains_that_nothing_is_transferred():
    found = {f.rule: f for f in Engine().examine(history([2.30712] * 8))}
    assert found["label_noise"].explained_by == "TV603"
    assert found["parameter_not_updated"].explained_by == ""
