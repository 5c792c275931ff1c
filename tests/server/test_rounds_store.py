"""Rounds over a real database: what arrives is diagnosed, to the very end of a run."""

import time

import numpy as np
import pytest

from helpers.batches import batch, ingest, scalar_frame, scalars, start
from trainvitals.api.schema import Severity, State, Verdict
from trainvitals.diagnosis.examine import Engine
from trainvitals.wire import Dropped, Heartbeat, RunEnd, Stream
from trainvitals_server.rounds import Rounds
from trainvitals_server.store import Store
from trainvitals_server.store.seal import Compactor

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
    assert before.run.findings.error == 0
    assert after.run.findings.error >= 1
    assert after.run.health < before.run.health
    assert after.run.headline.since_step == 50


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
    assert (run.run.state, run.run.findings.error >= 1) == ("failed", True)
    assert (run.run.verdict, run.run.error) == (Verdict.FAILED, "NaN")
    assert rounds.measured()[run.pk].vitals.step == 69


def test_a_silent_run_becomes_lost_and_runs_again_when_it_speaks(store):
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 10)))
    Rounds(store, Engine(), lost_after_s=60, now=lambda: NOW + 61).run_once()
    assert store.run("r").run.state == "lost"
    ingest(store, batch(Heartbeat(NOW + 62, 9), seq=1))
    assert store.run("r").run.state == "running"


def test_a_lost_run_is_not_healthy(store):
    ingest(store, batch(start(), LAYOUT, losses(0, np.linspace(2.3, 0.3, 200))))
    Rounds(store, Engine(), lost_after_s=60, now=lambda: NOW + 61).run_once()
    run = store.run("r").run
    assert run.verdict is Verdict.FAILED
    assert "contact was lost" in run.error


def test_a_run_of_which_only_the_loss_is_seen_is_blind_and_says_why(store):
    ingest(store, batch(start(), LAYOUT, losses(0, np.linspace(2.3, 0.3, 200))))
    run_once(store)
    stored = store.run("r")
    assert stored.run.verdict is Verdict.BLIND
    assert "no gradients were measured" in store.detail(stored).blind["exploding_gradient"]


def test_a_non_finite_loss_is_reported_whatever_follows(store):
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 50 + [np.nan] * 20)))
    run_once(store)
    ingest(store, batch(losses(70, [2.0] * 400), seq=1))
    run_once(store)
    run = store.run("r")
    [found] = [f for f in store.findings(run.pk) if f.code == "TV901"]
    assert (found.state, found.since_step, found.severity) == (State.OPEN, 50, Severity.WARNING)
    assert run.run.verdict is not Verdict.HEALTHY


def test_a_non_finite_loss_that_arrives_late_and_all_at_once_is_reported(store):
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 50 + [np.nan] + [2.0] * 400)))
    run_once(store)
    assert "TV901" in [f.code for f in store.findings(store.run("r").pk)]


def test_one_non_finite_loss_in_a_long_stored_run_is_found_by_a_collector_that_starts_later(store):
    segments, rows, bad = 40, 1024, 13 * 1024 + 77
    for i in range(segments):
        values = np.full(rows, 2.0)
        if i == bad // rows:
            values[bad % rows] = np.nan
        first = [start(), LAYOUT] if i == 0 else []
        ingest(store, batch(*first, losses(i * rows, values), seq=i))
        Compactor(store.database).run_once(everything=True)
    history = Store(store.database).history(store.run("r").pk)
    assert len(history.steps(Stream.SCALAR)) < segments * rows / 2, "most of it is left out"
    [found] = [f for f in Engine().examine(history) if f.code == "TV901"]
    assert found.since_step == bad


def test_a_run_takes_its_own_thresholds_to_the_collector(store):
    patient = {"threshold/no_learning/steps_min": 1e6}
    for run, facts in (("usual", {}), ("patient", patient)):
        records = (start(facts=facts), LAYOUT, losses(0, [2.3] * 600))
        ingest(store, batch(*records, run=run, source=run.encode().ljust(16)))
    run_once(store)
    usual, patient = (
        {f.code for f in store.findings(store.run(r).pk)} for r in ("usual", "patient")
    )
    assert "TV501" in usual
    assert "TV501" not in patient


def test_a_silent_run_has_a_note_until_it_reports_again(store):
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 10)))
    Rounds(store, Engine(), now=lambda: NOW + 120, lost_after_s=60).run_once()
    [note] = saved(store)
    assert (note.rule, note.severity, note.since_step) == ("silent_run", Severity.INFO, 9)
    assert store.run("r").run.verdict is Verdict.FAILED
    ingest(store, batch(Heartbeat(NOW, 10), losses(10, [2.2] * 10), seq=1))
    run_once(store)
    [note] = saved(store)
    assert note.state is State.RESOLVED


def test_dropped_records_are_a_note_with_the_reasons(store):
    ingest(store, batch(start(), LAYOUT, losses(0, [2.3] * 10)))
    run_once(store)
    assert saved(store) == []
    lost = [
        Dropped(10, 19, Stream.GRADIENT, "queue_full", 10),
        Dropped(12, 30, Stream.WEIGHT, "spool_full", 3),
    ]
    ingest(store, batch(*lost, losses(31, [2.2] * 10), seq=1))
    run_once(store)
    [note] = saved(store)
    assert note.summary == (
        "Dropped records: 13 records of steps 10 to 30 did not reach the collector "
        "(10 queue_full, 3 spool_full)."
    )
    run_once(store)
    assert len(saved(store)) == 1


def saved(store):
    [key] = [store.run("r").pk]
    return store.findings(key)
