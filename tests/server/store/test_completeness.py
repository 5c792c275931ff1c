"""A run is complete when every record that its processes produced is stored."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import trainvitals
from helpers.batches import batch, ingest, scalar_frame, scalars, start
from helpers.collector import running_collector
from trainvitals.cli.app import app
from trainvitals.ship.segments import Spooled, frame_of, frames_of
from trainvitals.ship.split import halves
from trainvitals.ship.spool import folders
from trainvitals.wire import Dropped, RunEnd, decode, encode

NOWHERE = "http://127.0.0.1:9"
END = {"time": 2.0, "step": 1, "state": "finished"}


def completeness(store):
    return store.detail(store.run("r")).completeness


def begun(store, **which):
    records = (start(host="gpu1"), scalars("loss"), scalar_frame([0, 1], [2.0, 1.0]))
    ingest(store, batch(*records, counted=4, **which))


def ended(store, *, seq, produced, dropped=0, **which):
    end = RunEnd(**END, produced=produced, dropped=dropped)
    ingest(store, batch(end, seq=seq, counted=1, **which))


def test_a_run_whose_batches_all_arrived_is_complete(store):
    begun(store)
    ended(store, seq=1, produced=5)
    found = completeness(store)
    assert (found.complete, found.stored, found.dropped, found.missing) == (True, 5, 0, 0)
    assert found.reason == ""


def test_a_batch_that_did_not_arrive_is_missing_until_it_arrives(store):
    begun(store)
    ended(store, seq=2, produced=12)
    found = completeness(store)
    assert (found.complete, found.stored, found.missing) == (False, 5, 7)
    assert found.reason == (
        "7 records were not delivered. `trainvitals sync` on gpu1 sends what is on disk there."
    )
    late = batch(scalar_frame(range(2, 9), [1.0] * 7), seq=1, counted=7)
    ingest(store, late)
    ingest(store, late)  # a repeat is not counted again
    assert (completeness(store).complete, completeness(store).stored) == (True, 12)


def test_dropped_records_are_not_missing_but_the_run_is_not_complete(store):
    begun(store)
    ingest(store, batch(Dropped(3, 9, "scalar", "queue_full", 3), seq=1, counted=0))
    assert completeness(store).dropped == 3
    ended(store, seq=2, produced=8, dropped=3)
    found = completeness(store)
    assert (found.complete, found.stored, found.dropped, found.missing) == (False, 5, 3, 0)
    assert found.reason == "3 records were dropped by the training process."


def test_while_a_run_goes_on_it_is_not_known(store):
    begun(store)
    found = completeness(store)
    assert (found.complete, found.stored, found.missing) == (None, 4, None)


def test_a_process_that_did_not_report_its_end_makes_the_run_incomplete(store):
    begun(store)
    begun(store, rank=1, source=b"1" * 16)
    ended(store, seq=1, produced=5)
    found = completeness(store)
    assert (found.complete, found.stored, found.missing) == (False, 9, None)
    assert found.reason.startswith("1 of 2 processes did not report the end")


def test_a_lost_run_is_not_complete(store):
    begun(store)
    store.mark_lost(4e9, 60)
    assert completeness(store).complete is False


def test_counts_of_an_older_version_are_not_guessed(store):
    ingest(store, batch(start(), scalars("loss")))
    ended(store, seq=1, produced=3)
    found = completeness(store)
    assert (found.complete, found.stored, found.missing) == (None, None, None)
    assert "older version" in found.reason


def test_the_parts_of_a_divided_batch_count_what_the_batch_counted(store):
    sent = batch(start(), scalars("loss"), scalar_frame([0, 1], [2.0, 1.0]), counted=3)
    for part in halves(Spooled(0, 3, encode(sent))):
        store.ingest(decode(part.payload), part.payload)
    assert completeness(store).stored == 3


def train(url):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with trainvitals.watch(model, optimizer, run="r", collector=url) as monitor:
        for _ in range(60):
            optimizer.zero_grad()
            loss = monitor.loss(model(torch.randn(16, 4)).square().mean())
            loss.backward()
            optimizer.step()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def collector(tmp_path, database_url, monkeypatch):
    with running_collector(tmp_path, database_url, round_interval_s=3600) as running:
        monkeypatch.setenv("TRAINVITALS_TOKEN", running.token)
        yield running


def without_batch(spool, seq, url):
    """Remove one batch from a folder of the spool and set its collector; return its records."""
    lost = 0
    for segment in spool.glob("*.segment"):
        batches = frames_of(segment.read_bytes())
        lost += sum(batch.records for batch in batches if batch.seq == seq)
        kept = [batch for batch in batches if batch.seq != seq]
        segment.write_bytes(b"".join(frame_of(batch, b"salt" * 2) for batch in kept))
    owner = json.loads((spool / "owner.json").read_text())
    (spool / "owner.json").write_text(json.dumps({**owner, "url": url}))
    return lost


def test_a_real_run_is_complete_record_for_record(home, collector):
    train(collector.url)
    found = completeness(collector.store)
    assert (found.complete, found.dropped, found.missing) == (True, 0, 0), found.reason
    assert found.stored > 60
    shown = collector.get("/api/v1/runs/r").json()["completeness"]
    assert (shown["complete"], shown["stored"]) == (True, found.stored)


def test_a_batch_of_a_real_run_that_the_disk_lost_is_missing_record_for_record(home, collector):
    train(NOWHERE)
    [spool] = folders(home / "spool")
    lost = without_batch(spool, 1, collector.url)
    sent = CliRunner().invoke(app, ["sync", "--collector", collector.url])
    assert sent.exit_code == 0, sent.output
    found = completeness(collector.store)
    assert lost > 0
    assert (found.complete, found.dropped, found.missing) == (False, 0, lost)
    assert f"{lost:,} records were not delivered." in found.reason
