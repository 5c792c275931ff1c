"""Each limit of docs/limits.md refuses with its reason, is counted, and stores nothing."""

import contextlib
import gzip
import threading
import zlib

import numpy as np
import pytest

from helpers.batches import batch, frame, scalars, start
from helpers.collector import running_collector
from trainvitals.wire import Layout, Place, Stat, Stream, encode
from trainvitals.wire.records import RunEnd
from trainvitals_server.collect import routes
from trainvitals_server.collect.body import ByteBudget
from trainvitals_server.problems import Problem


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with running_collector(
        tmp_path_factory.mktemp("limits"), seal_interval_s=3600, run_series_max=20_000
    ) as collector:
        yield collector


def weights(places: int, *, version: int = 0, stream: Stream = Stream.WEIGHT) -> Layout:
    names = tuple(Place(f"p{i}") for i in range(places))
    return Layout(stream, version, (Stat.MEAN, Stat.STD), names)


def refused(collector, sent, status, reason, **headers):
    before = collector.app.state.ingest_counters.read().requests.get(reason, 0)
    answer = collector.send(sent, **headers)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.text
    assert collector.app.state.ingest_counters.read().requests[reason] == before + 1
    return answer


def test_a_body_over_2_MiB_is_refused(running):
    refused(running, bytes(2 * 2**20 + 1), 413, "too_large")


def test_a_body_over_8_MiB_after_decompression_is_refused(running):
    noise = np.random.default_rng(0).integers(0, 4, 9 * 2**20, np.uint8).tobytes()
    packed = zlib.compress(noise, 1)
    assert len(packed) > 9 * 2**20 / 50
    # Noise of four values shrinks to a third: cut off where 2 MiB would be reached.
    with running_limits(running, body_bytes_max=8 * 2**20):
        refused(running, packed, 413, "too_large", **{"Content-Encoding": "deflate"})


@contextlib.contextmanager
def running_limits(collector, **changes):
    """Return a context in which the collector has other settings."""
    state = collector.app.state
    before = state.settings
    state.settings = before.model_copy(update=changes)
    try:
        yield
    finally:
        state.settings = before


def test_a_body_that_grows_more_than_50_fold_is_refused(running):
    refused(running, gzip.compress(bytes(2**20)), 413, "too_large", **{"Content-Encoding": "gzip"})


def test_a_build_that_decompresses_without_a_limit_is_found(running, monkeypatch):
    def inflate(body, _encoding, _held, **_limits):
        return zlib.decompress(body, zlib.MAX_WBITS | 32)

    monkeypatch.setattr(routes, "inflate", inflate)
    with pytest.raises(AssertionError, match="malformed"):
        test_a_body_that_grows_more_than_50_fold_is_refused(running)


def test_a_small_body_may_grow_more_than_50_fold(running):
    sent = encode(batch(start(config={"x": "a" * 60_000}), run="small", source=b"s" * 16))
    packed = gzip.compress(sent)
    assert len(packed) * 50 < len(sent)
    assert running.send(packed, **{"Content-Encoding": "gzip"}).status_code == 200


def test_more_than_50_000_values_are_refused(running):
    values = np.zeros((26, 1000, 2), "f4")
    sent = batch(weights(1000), frame(Stream.WEIGHT, range(26), values), run="v", source=b"v" * 16)
    refused(running, sent, 413, "too_large")
    assert running.store.run("v") is None


def test_a_name_over_256_bytes_is_refused(running):
    refused(running, batch(scalars("ä" * 129)), 413, "too_large")


def test_a_layout_of_more_than_20_000_places_is_refused(running):
    sent = batch(weights(20_001), run="p", source=b"p" * 16)
    refused(running, sent, 413, "too_large")
    assert running.store.run("p") is None


def test_a_run_has_at_most_the_series_of_the_setting_over_all_streams(running):
    first = batch(weights(6000), run="w", source=b"w" * 16)
    assert running.send(first).status_code == 200
    more = batch(weights(5000, stream=Stream.GRADIENT), seq=1, run="w", source=b"w" * 16)
    refused(running, more, 413, "too_many_series")
    fits = batch(weights(4000, stream=Stream.GRADIENT), seq=1, run="w", source=b"w" * 16)
    assert running.send(fits).status_code == 200, "the refused batch left nothing"


def test_a_layout_that_was_refused_is_not_remembered_for_the_next_one(running):
    values = np.zeros((1, 11_000, 2), "f4")
    sent = batch(weights(11_000), frame(Stream.WEIGHT, [0], values), run="m", source=b"l" * 16)
    refused(running, sent, 413, "too_many_series")
    fits = batch(weights(10), frame(Stream.WEIGHT, [0], values[:, :10]), run="m", source=b"l" * 16)
    assert running.send(fits).status_code == 200


def test_versions_of_a_layout_and_ranks_of_a_run_count_once(running):
    for version in range(4):
        sent = batch(weights(6000, version=version), seq=version, run="n", source=b"n" * 16)
        assert running.send(sent).status_code == 200
    other = batch(weights(6000), run="n", source=b"m" * 16, rank=1)
    assert running.send(other).status_code == 200


def test_the_series_of_running_runs_are_limited_and_an_ended_run_makes_room(database_url, tmp_path):
    limits = {"run_series_max": 100, "series_max": 150}
    with running_collector(tmp_path, database_url, **limits) as collector:
        assert collector.send(batch(weights(50), run="a", source=b"a" * 16)).status_code == 200
        second = batch(weights(50), run="b", source=b"b" * 16)
        answer = refused(collector, second, 503, "collector_full")
        assert answer.headers["retry-after"] == "30"
        end = batch(RunEnd(1.0, 1, "finished"), seq=1, run="a", source=b"a" * 16)
        assert collector.send(end).status_code == 200
        assert collector.send(second).status_code == 200


def test_a_body_for_which_other_requests_leave_no_memory_is_refused_until_they_end(running):
    sent = batch(weights(1), run="q", source=b"q" * 16)
    with running.app.state.receiving.hold() as others:
        others.add(running.settings.queue_bytes_max)
        answer = refused(running, sent, 503, "queue_full")
    assert answer.headers["retry-after"] == "1"
    assert running.send(sent).status_code == 200


def test_a_batch_for_which_the_write_queue_has_no_room_is_refused_until_it_has(running):
    sent, database = batch(weights(1), run="u", source=b"u" * 16), running.store.database
    begun, release = threading.Event(), threading.Event()

    def wait(_connection):
        begun.set()
        release.wait(20)

    first = database.submit(wait)
    assert begun.wait(20)
    second = database.submit(lambda _: None, size=running.settings.queue_bytes_max)
    answer = refused(running, sent, 503, "queue_full")
    assert answer.headers["retry-after"] == "1"
    release.set()
    first.result(20)
    second.result(20)
    assert running.send(sent).status_code == 200


def test_all_bodies_together_are_bounded_and_their_bytes_are_released():
    budget = ByteBudget(100)
    with budget.hold() as first:
        first.add(80)
        with budget.hold() as second, pytest.raises(Problem, match="hold 80 bytes"):
            second.add(30)
        assert budget.held == 80
    assert budget.held == 0


def test_a_collector_at_rest_holds_no_bytes_of_bodies(running):
    assert running.app.state.receiving.held == 0


@pytest.mark.parametrize("version", [2**53, 2**63, 2**64 - 1])
def test_a_layout_version_that_no_column_can_hold_is_refused(running, version):
    refused(running, batch(weights(1, version=version)), 400, "malformed")
    sent = batch(frame(Stream.WEIGHT, [0], np.zeros((1, 1, 2)), version=version))
    refused(running, sent, 400, "malformed")
