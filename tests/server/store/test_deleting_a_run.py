"""A deleted run is gone at once, its rows follow in short transactions, a late batch is refused."""

import threading

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from helpers import plain_http
from helpers.batches import amounts, batch, diagnosis, ingest, scalar_frame, scalars, start
from trainvitals.api.schema import Finding, Severity
from trainvitals.cli.app import app
from trainvitals.ship.http import REJECTED_WHOLE
from trainvitals.wire import Dropped, Event, Stat, Stream
from trainvitals_server.auth import Scope
from trainvitals_server.store import RequestRefused, models, removal
from trainvitals_server.store.removal import Removal
from trainvitals_server.store.seal import Compactor

DATA = (
    models.Chunk,
    models.LogFrame,
    models.Track,
    models.BatchKey,
    models.EventRow,
    models.DroppedRow,
    models.FindingRow,
)
FINDING = Finding(rule="a", code="TV1", severity=Severity.ERROR, since_step=1, summary="x")


def fill(store, run, source, steps=3000):
    """Store a run with sealed rows, rows in the log, events, drops and a finding."""
    records = [Event(3, 5.0, "checkpoint"), Dropped(1, 2, "weight", "queue_full", 4)]
    losses = [1.0 + i for i in range(steps)]
    sealed = batch(
        start(),
        scalars("loss"),
        scalar_frame(range(steps), losses),
        *records,
        run=run,
        source=source * 16,
    )
    ingest(store, sealed)
    Compactor(store.database).run_once(everything=True)
    later = scalar_frame(range(steps, steps + 9), [0.5] * 9)
    ingest(store, batch(later, run=run, seq=1, source=source * 16))
    store.save_diagnosis(store.run(run).pk, diagnosis([FINDING], health=0.5, step=9))


def rows_of_runs(store):
    with store.database.read() as connection:
        return [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in DATA]


def losses(store, run):
    found = store.curves(store.run(run).pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=5000)
    return found.spans.newest[:, 0].tolist()


def test_the_other_run_keeps_every_row(store, monkeypatch):
    for limit in ("_ROWS", "_FRAMES", "_SMALL_ROWS"):
        monkeypatch.setattr(removal, limit, 2)
    fill(store, "kept", b"k")
    Compactor(store.database).run_once(everything=True)
    before, curve = rows_of_runs(store), losses(store, "kept")
    fill(store, "r", b"r")
    assert all(a > b for a, b in zip(rows_of_runs(store), before, strict=True))
    store.delete(store.run("r").pk)
    assert store.run("r") is None
    assert [stored.run.id for stored in store.run_summaries()[0]] == ["kept"]
    assert amounts(store).runs == 1
    assert Removal(store.database).run_once() == 1
    assert rows_of_runs(store) == before
    assert losses(store, "kept") == curve
    assert Removal(store.database).run_once() == 0, "nothing is left to remove"


def test_a_late_batch_is_refused_and_a_new_start_is_a_new_run(store):
    fill(store, "r", b"r")
    old = store.run("r").pk
    store.delete(old)
    late = batch(scalar_frame([9000], [1.0]), run="r", seq=2, source=b"r" * 16)
    for _ in range(2):  # before and after the rows are removed
        with pytest.raises(RequestRefused) as refused:
            ingest(store, late)
        assert refused.value.reason == "run_deleted"
        assert refused.value.reason in REJECTED_WHOLE, "the sender drops it and goes on"
        assert store.run("r") is None
        Removal(store.database).run_once()
    fill(store, "r", b"n", steps=50)
    assert store.run("r").pk != old, "what is kept in memory under the old key is not its own"
    assert len(losses(store, "r")) == 59
    assert store.history(store.run("r").pk).steps(Stream.SCALAR).tolist() == list(range(59))


def test_a_removal_that_was_interrupted_goes_on(store, monkeypatch):
    fill(store, "r", b"r")
    store.delete(store.run("r").pk)
    monkeypatch.setattr(removal, "_ROWS", 1)
    calls = iter(range(100))
    assert Removal(store.database, lambda: next(calls) >= 2).run_once() == 0
    assert rows_of_runs(store)[0] > 0
    assert Removal(store.database).run_once() == 1
    assert rows_of_runs(store) == [0] * len(DATA)


def test_a_run_in_a_round_is_removed_after_it(store):
    fill(store, "r", b"r")
    pk = store.run("r").pk
    with store.claim_round(pk):
        store.delete(pk)
        assert Removal(store.database).run_once() == 0
        store.save_diagnosis(pk, diagnosis([FINDING], health=0.5, step=9))
    assert store.runs_due() == []
    assert Removal(store.database).run_once() == 1
    assert rows_of_runs(store) == [0] * len(DATA)


def test_ingest_goes_on_while_rows_are_removed(store, monkeypatch):
    monkeypatch.setattr(removal, "_ROWS", 1)
    fill(store, "r", b"r")
    store.delete(store.run("r").pk)
    thread = threading.Thread(target=Removal(store.database).run_once)
    thread.start()
    ingest(store, batch(start(), scalars("loss"), run="other", source=b"o" * 16))
    for i in range(20):
        ingest(
            store,
            batch(scalar_frame([i], [1.0 * i]), run="other", seq=i + 1, source=b"o" * 16),
        )
    thread.join(30)
    assert losses(store, "other") == [float(i) for i in range(20)]
    with store.database.read() as connection:
        chunks = sa.select(sa.func.count()).select_from(models.Chunk)
        assert connection.scalar(chunks) == 0


def test_over_http_only_an_admin_deletes(collector, tmp_path, monkeypatch):
    fill(collector.store, "r1", b"r", steps=20)
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def asked(*words, token):
        monkeypatch.setenv("TRAINVITALS_TOKEN", token)
        return CliRunner().invoke(app, ["delete", *words, "--collector", collector.url])

    reader = collector.app.state.tokens.create(Scope.READ)
    other = collector.app.state.tokens.create(Scope.ADMIN, project="another")
    refused = asked("r1", "--yes", token=reader)
    assert (refused.exit_code, "scope admin" in refused.stderr) == (2, True)
    assert asked("r1", "--yes", token=other).exit_code == 2
    assert asked("r1", token=collector.token).exit_code == 2, "it asks for --yes"
    assert collector.store.run("r1") is not None
    done = asked("r1", "--yes", token=collector.token)
    assert done.exit_code == 0, done.output
    assert collector.store.run("r1") is None
    assert asked("r1", "--yes", token=collector.token).exit_code == 2
    late = collector.send(batch(start(), run="r1", seq=7, source=b"r" * 16))
    assert (late.status_code, late.json()["reason"]) == (409, "run_deleted")
    listed = plain_http.get(f"{collector.url}/metrics", headers=collector.headers)
    assert "r1" not in listed.text
