"""The bench of healthy programs counts every alarm of the runs that learned, and no other run."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from healthy.program import Program
from healthy.report import data, text
from healthy.runner import Alarm, Observed, Outcome, load, names, run, run_all
from helpers.watching import network, own_home, train  # noqa: F401 - a fixture

pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.timeout(120)]
ALARM = Alarm("dead_relu", "TV201", "warning", "fc1", 19, "Half of the units are zero.", False)
QUIET = Outcome("transfer", "seed=0", 0.97, True, "healthy", 300, 2.0, ())


@pytest.mark.parametrize("name", names())
def test_a_program_has_two_or_three_settings_with_seeds(name):
    program = load(name)
    assert isinstance(program, Program)
    assert 2 <= len(program.settings) <= 3
    assert [setting["seed"] for setting in program.settings] == [*range(len(program.settings))]


def test_a_metric_that_is_not_a_number_is_not_learned():
    assert not load("transfer").has_learned(math.nan)
    assert not load("realnvp").has_learned(math.nan)


def test_a_program_learns_under_watch_and_in_a_process_of_its_own_alike():
    here = run("transfer", 0)
    [apart] = run_all([("transfer", 0)])
    assert here.learned
    assert here.steps == apart.steps == 300
    assert here.metric == pytest.approx(apart.metric, abs=0.03)


def test_a_program_that_fails_is_reported_and_not_counted():
    [outcome] = run_all([("no_such_program", 0)])
    assert "no_such_program" in outcome.error
    assert data([outcome])["not_counted"] == 1


def test_no_run_is_started_after_the_time():
    assert run_all([("transfer", 0)], until=lambda: True) == []


def test_an_alarm_during_the_training_is_recorded_with_its_first_step():
    model, watch = network(), Observed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    train(model, optimizer, watch(model, optimizer), steps=40)
    diagnosis, alarms = watch.finish()
    assert {alarm.rule for alarm in alarms} >= {finding.rule for finding in diagnosis.alarms}
    assert all(alarm.open_at_end for alarm in alarms if alarm.rule == "parameter_not_updated")
    assert min(alarm.step for alarm in alarms) < 20


def test_a_run_is_flagged_by_an_alarm_that_was_resolved_later():
    flagged = replace(QUIET, setting="seed=1", alarms=(ALARM,))
    report = data([QUIET, flagged])
    assert (report["flagged"], report["flagged_at_end"]) == (1, 0)
    assert "50.0% (1/2" in text([QUIET, flagged])
    assert "TV201 dead_relu, warning, at fc1, after step 19, resolved" in text([QUIET, flagged])


def test_a_run_that_did_not_learn_is_listed_and_not_counted():
    missed = replace(QUIET, setting="seed=1", metric=0.3, learned=False, alarms=(ALARM,))
    assert data([QUIET, missed])["flagged"] == 0
    assert "Not counted: transfer (seed=1): metric 0.3" in text([QUIET, missed])
