"""On a full disk the collector refuses batches, goes on to be read, and recovers by itself."""

import time
from types import SimpleNamespace

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from helpers import plain_http
from helpers.batches import batch, frame, ingest, start
from helpers.collector import running_collector
from trainvitals.ship.http import Away, Rejected, Unauthorised, parse_url, post
from trainvitals.wire import Layout, Place, Stat, Stream
from trainvitals_server.publish import counters

PLACES = 2000


@pytest.fixture
def collector(tmp_path):
    with running_collector(tmp_path, seal_interval_s=3600) as running:
        yield running


def pages(collector, most: int) -> None:
    """Give the file at most so many pages more than it has now."""

    def limit(connection: sa.Connection) -> None:
        now = connection.scalar(sa.text("PRAGMA page_count"))
        connection.execute(sa.text(f"PRAGMA max_page_count={now + most}"))

    collector.store.database.write(limit)


def values(step: int) -> np.ndarray:
    return np.random.default_rng(step).random((1, PLACES, 1), np.float32)


def send(collector, step: int):
    return collector.send(batch(frame(Stream.WEIGHT, [step], values(step)), seq=step))


def probe(collector, token: str):
    """Send a batch that is none, if a request without a body does not refuse it first."""
    address = parse_url(collector.url)
    return post(address, token, b"none", source=bytes(16), seq=0, deadline_s=5, probes=True)


def stored_steps(collector) -> list[int]:
    run = collector.store.run("r")
    found = collector.store.curves(run.pk, Stream.WEIGHT, Stat.MEAN, ["p0"], points=1000)
    return found.spans.first.tolist()


def test_a_batch_is_refused_with_507_the_others_are_kept_and_it_recovers(collector):
    names = tuple(Place(f"p{i}") for i in range(PLACES))
    ingest(collector.store, batch(start(), Layout(Stream.WEIGHT, 0, (Stat.MEAN,), names)))
    pages(collector, 4)
    answers = {step: send(collector, step) for step in range(1, 31)}
    kept = [step for step, answer in answers.items() if answer.status_code == 200]
    refused = [step for step, answer in answers.items() if answer.status_code != 200]
    assert kept
    assert refused
    for step in refused:
        answer = answers[step]
        assert (answer.status_code, answer.json()["reason"]) == (507, "disk_full")
        assert answer.headers["retry-after"] == "30"
    counted = collector.app.state.ingest_counters.read().requests["disk_full"]
    assert counted == len(refused)
    assert stored_steps(collector) == kept
    assert collector.get("/healthz").status_code == 200
    ready = collector.get("/readyz")
    assert (ready.status_code, ready.json()["reason"]) == (503, "not_ready")
    assert "disk is full" in ready.json()["detail"]
    assert isinstance(probe(collector, collector.token), Away)
    counted_later = collector.app.state.ingest_counters.read().requests["disk_full"]
    assert counted_later == counted  # else the disk would count as full for as long as one asks
    assert collector.get("/api/v1/runs/r").status_code == 200
    pages(collector, 10**6)
    assert {send(collector, step).status_code for step in refused} == {200}
    assert stored_steps(collector) == list(range(1, 31))
    assert collector.get("/readyz").status_code == 200


def test_a_probe_is_answered_as_the_batch_would_be(collector):
    assert isinstance(probe(collector, collector.token), Rejected)
    wrong = probe(collector, "tv_ingest_000000000000_" + "x" * 43)
    assert isinstance(wrong, Unauthorised)
    # Only the batch that followed the successful probe was sent.
    counted = collector.app.state.ingest_counters.read().requests
    assert {reason: n for reason, n in counted.items() if n} == {"malformed": 1}


def test_without_a_refusal_for_a_minute_it_is_ready_again(collector, monkeypatch):
    collector.app.state.ingest_counters.refused("disk_full")
    assert collector.get("/readyz").status_code == 503
    later = time.monotonic() + counters.DISK_FULL_S
    monkeypatch.setattr(counters, "time", SimpleNamespace(monotonic=lambda: later))
    assert collector.get("/readyz").status_code == 200


CHANGES = [
    ("PATCH", "/api/v1/runs/r", lambda number: {"notes": "𝄞" * 100 * number}),
    ("POST", "/api/v1/silences", lambda number: {"hours": 1, "reason": f"{number} " + "r" * 400}),
    ("POST", "/api/v1/tokens", lambda number: {"scope": "read", "label": f"{number} " + "l" * 190}),
]


@pytest.mark.parametrize(("method", "path", "change"), CHANGES, ids=["run", "silence", "token"])
def test_a_change_is_refused_with_507_and_made_when_there_is_space(collector, method, path, change):
    ingest(collector.store, batch(start()))
    url = collector.url + path

    def ask(number):
        return plain_http.request(method, url, json=change(number), headers=collector.headers)

    pages(collector, 0)
    # The last pages have space for some.
    refused = next(answer for answer in map(ask, range(100)) if not answer.is_success)
    assert (refused.status_code, refused.json()["reason"]) == (507, "disk_full")
    assert refused.headers["retry-after"] == "30"
    assert collector.get("/api/v1/runs/r").status_code == 200
    assert collector.get("/healthz").status_code == 200
    pages(collector, 10**6)
    assert ask(100).is_success


@pytest.mark.needs_postgres
def test_a_full_disk_of_postgres_is_507_too(tmp_path, postgres, monkeypatch):
    def full(task, size):
        raise OperationalError("INSERT", {}, psycopg.errors.DiskFull("No space left on device"))

    with postgres.database() as url, running_collector(tmp_path, url) as running:
        monkeypatch.setattr(running.store.database, "_written", full)
        answer = running.send(batch(start()))
        assert (answer.status_code, answer.json()["reason"]) == (507, "disk_full")
        assert running.get("/readyz").status_code == 503
        assert running.get("/api/v1/runs").status_code == 200
        monkeypatch.undo()
        assert running.send(batch(start())).status_code == 200
        assert running.get("/readyz").status_code == 200
