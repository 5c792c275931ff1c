"""TV604 reports a dropout that leaves almost no signal; TV609 explains weights that stand still."""

import numpy as np
import pytest
from torch import nn

from trainvitals.api.schema import Severity
from trainvitals.capture.facts import facts_of
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.over_regularised import OverRegularised
from trainvitals.diagnosis.rules.schedule_ended_early import ScheduleEndedEarly
from trainvitals.wire import Event, EventKind

STEPS = 120


def findings(dropout, *, loss=0.6, kind="MSELoss", steps=STEPS):
    values = np.full(steps, loss)
    values[:10] = 12.0  # the noise of a strong dropout makes the first loss large
    example = Example(steps).scalars(loss=values, target_std=1.0)
    example.history.facts |= {"dropout_max": dropout, "dropout_max_module": "act.1"}
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, kind, {}))
    return list(OverRegularised().check(example.history))


def test_a_dropout_that_keeps_a_twentieth_is_a_warning_at_its_module():
    [finding] = findings(0.95)
    assert (finding.where, finding.severity) == ("act.1", Severity.WARNING)
    assert "keeps 5" in finding.summary
    assert "module.p" in finding.fix


def test_without_a_known_loss_of_a_constant_it_is_a_note():
    [finding] = findings(0.95, kind="KLDivLoss")
    assert finding.severity is Severity.INFO


def test_without_it_a_loss_that_is_level_far_above_zero_makes_it_a_warning():
    [finding] = findings(0.95, kind="KLDivLoss", loss=4.0)
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(
    ("dropout", "loss"),
    [(0.92, 4.0), (0.95, np.linspace(12, 4, STEPS))],
    ids=["it keeps more", "the loss falls"],
)
def test_otherwise_it_stays_a_note_without_it(dropout, loss):
    [finding] = findings(dropout, kind="KLDivLoss", loss=loss)
    assert finding.severity is Severity.INFO


@pytest.mark.parametrize(
    "changes", [{"dropout": 0.8}, {"dropout": 0.95, "loss": 0.2}, {"dropout": 0.95, "steps": 80}]
)
def test_usual_dropouts_runs_that_learn_and_short_runs_are_not_reported(changes):
    assert not findings(**changes)


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        ({}, True),
        ({"loss": 0.8}, False),
        ({"steps": 150}, False),
        ({"dropout": 0.6}, False),
        ({"kind": "KLDivLoss"}, False),
        ({"loss": np.linspace(1.4, 0.95, 250)}, False),
    ],
    ids=["stays", "learns", "too early", "usual", "unknown scale", "falls"],
)
def test_a_high_dropout_is_reported_where_nothing_is_learned(changes, is_found):
    found = findings(**({"dropout": 0.8, "loss": 0.95, "steps": 250} | changes))
    assert bool(found) is is_found
    if is_found:
        assert found[0].severity is Severity.WARNING
        assert [e.limit for e in found[0].evidence] == [0.7, 0.9]


def test_the_largest_dropout_of_the_model_is_a_fact_of_the_run():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Sequential(nn.Dropout2d(0.7)))
    facts = facts_of({"": model}, None)
    assert (facts["dropout_max"], facts["dropout_max_module"]) == (0.7, "2.0")
    assert "dropout_max" not in facts_of({"": nn.Linear(4, 4)}, None)


def test_a_schedule_that_ended_early_explains_weights_without_an_update():
    assert "TV603" in ScheduleEndedEarly.explains


def test_a_loss_that_begins_and_stays_at_many_times_a_constants_is_reported_at_once():
    example = Example(3).scalars(loss=[1297.0, 6e7, 2e26], target_std=1.0)
    example.history.facts |= {"dropout_max": 0.95, "dropout_max_module": "act.1"}
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", {}))
    [finding] = OverRegularised().check(example.history)
    assert finding.where == "act.1"
    assert {"TV102", "TV305", "TV601", "TV901"} <= OverRegularised.explains
