"""Rounds over a real database: what arrives is diagnosed, to the very end of a run."""

import time

import numpy as np
import pytest

from helpers.batches import batch, ingest, scalar_frame, scalars, start
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.finding import State
from trainvitals.wire import Heartbeat, RunEnd
from trainvitals_server.rounds import Rounds
from trainvitals_server.store import Store

LAYOUT = scalars("loss", "nonfinite_loss")
NOW = 1_700_000_100.0


@pytest.fixture
def store(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'trainvitals.db'}", clock=lambda: NOW)
    yield store
    store.close()


def losses(first_step, values):
    values = np.asarray(values, float)
    steps = list(range(first_step, first_step + len(values)))
    return scalar_frame(steps, values, (~np.isfinite(values)).astype(float))


def run_once(store, **options):
    """Make a round with nothing left to wait for."""
    return Rounds(store, Engine(), now=lambda: NOW, **options).run_once()


def test_a_run_is_diagnosed_once_for_each_time_something_arrives(store):
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 10)))
    assert [run_once(store), run_once(store)] == [1, 0]
    ingest(store, batch(losses(10, [2.2] * 10), seq=1))
    assert run_once(store) == 1


def test_findings_and_health_are_in_the_run_list_after_the_round(store):
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 50)))
    run_once(store)
    before = store.run("r")
    ingest(store, batch(losses(50, [np.nan] * 20), seq=1))
    run_once(store)
    after = store.run("r")
    assert before.counts.error == 0
    assert after.counts.error >= 1
    assert after.health < before.health
    assert after.headline.since_step == 50


def test_what_came_with_the_end_of_a_run_is_in_its_verdict(store):
    rounds = Rounds(store, Engine(), now=lambda: NOW)
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 50)))
    rounds.run_once()
    ingest(store, batch(losses(50, [np.nan] * 20), RunEnd(NOW, 69, "failed", error="NaN"), seq=1))
    # A diagnosis waits nine times as long as the last one took: the end is not forgotten.
    deadline = time.monotonic() + 30
    while not rounds.run_once():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run = store.run("r")
    assert (run.state, run.counts.error >= 1) == ("failed", True)
    assert rounds.measured()[run.pk].vitals.step == 69


def test_a_silent_run_becomes_lost_and_runs_again_when_it_speaks(store):
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 10)))
    Rounds(store, Engine(), lost_after_s=60, now=lambda: NOW + 61).run_once()
    assert store.run("r").state == "lost"
    ingest(store, batch(Heartbeat(NOW + 62, 9), seq=1))
    assert store.run("r").state == "running"


def test_a_finding_that_goes_away_is_resolved_and_not_forgotten(store):
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 50 + [np.nan] * 20)))
    run_once(store)
    ingest(store, batch(losses(70, [2.0] * 400), seq=1))
    run_once(store)
    run = store.run("r")
    [resolved] = [f for f in store.findings(run.pk) if f.since_step == 50]
    assert (resolved.state, resolved.last_step) == (State.RESOLVED, 69)
    assert run.counts.error == 0
