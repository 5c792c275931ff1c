"""TV604 reports a decay that removes 0.5 % of each weight per step, if the loss stays high."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.over_regularised import OverRegularised
from trainvitals.wire import Event, EventKind, Place, Stat, Stream

STEPS = 200


def findings(*, optimizer="AdamW", decay=10.0, end=0.7, norm=0.4):
    """The learning rate is 1e-3; the error falls from 1 to `end`, the weights to `norm`."""
    place = Place("0.weight", kind="weight", shape=(32, 32), module="0")
    loss = end + (1 - end) * np.exp(-np.arange(STEPS) / 30)
    example = Example(STEPS).scalars(
        loss=loss, target_std=1.0, learning_rate__0=1e-3, weight_decay__0=decay
    )
    size = 5 * np.maximum(norm, 0.98 ** np.arange(STEPS))
    history = example.stream(Stream.WEIGHT, [place], {place.name: {Stat.L2: size}}).history
    history.facts["optimizer"] = optimizer
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", {}))
    return list(OverRegularised().check(history))


def test_a_decay_of_1_percent_per_step_is_a_warning_while_the_loss_is_high():
    [finding] = findings()
    assert finding.severity is Severity.WARNING
    assert "a weight decay of 10" in finding.summary


@pytest.mark.parametrize(
    "changes",
    [{"end": 0.4}, {"decay": 1.0}, {"norm": 0.8}, {"optimizer": "Adam"}],
    ids=["it learns", "a usual decay", "the weights keep their size", "Adam scales the decay"],
)
def test_otherwise_it_is_silent(changes):
    assert not findings(**changes)
