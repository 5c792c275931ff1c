"""Expensive reads are bounded in memory and in number, and do not delay ingest."""

import asyncio
import http.client
import threading
import time
import tracemalloc

import numpy as np
import pytest

from helpers import plain_http
from helpers.batches import batch, frame, scalars
from helpers.collector import running_collector
from trainvitals.wire import Layout, Place, Stat, Stream
from trainvitals_server.problems import Problem
from trainvitals_server.query.heavy import HeavyReads

PLACES, STEPS = 20_000, 208
VALUES = (np.arange(STEPS * PLACES, dtype="f4") % 1000).reshape(STEPS, PLACES)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A collector with a run of 20,000 places and 208 steps."""
    with running_collector(tmp_path_factory.mktemp("heavy"), batch_values_max=10**6) as collector:
        names = tuple(Place(f"layer.{i}", depth=i) for i in range(PLACES))
        values = VALUES[:, :, None]
        layout = Layout(Stream.WEIGHT, 0, (Stat.MEAN,), names)
        assert collector.send(batch(layout)).status_code == 200
        for i in range(0, STEPS, 16):
            sent = batch(frame(Stream.WEIGHT, range(i, i + 16), values[i : i + 16]), seq=i + 1)
            assert collector.send(sent).status_code == 200
        yield collector


def heatmap(collector):
    return plain_http.get(
        f"{collector.url}/api/v1/runs/r/heatmap",
        params={"stream": "weight", "statistic": "mean", "columns": 400},
        headers=collector.headers,
        timeout=60,
    )


def test_a_heat_map_of_20_000_places_is_exact(running):
    shown = heatmap(running).json()
    assert shown["places"] == [f"layer.{i}" for i in range(PLACES)]
    assert shown["steps"] == list(range(STEPS))
    np.testing.assert_array_equal(np.array(shown["values"], "f4"), VALUES.T)


def test_a_heat_map_of_20_000_places_takes_less_than_64_MB(running):
    while running.store.runs_due():  # a round has memory of its own, which is not that of the map
        time.sleep(0.1)
    tracemalloc.start()
    try:
        client = http.client.HTTPConnection("127.0.0.1", running.settings.port, timeout=60)
        path = "/api/v1/runs/r/heatmap?stream=weight&statistic=mean&columns=400"
        client.request("GET", path, headers=running.headers)
        answer, size = client.getresponse(), 0
        while part := answer.read(65536):
            size += len(part)
        client.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 2 * STEPS * PLACES
    assert peak < 64e6, f"{peak / 1e6:.0f} MB"


def test_reads_beyond_the_queue_are_refused_and_the_others_are_served():
    async def scenario():
        heavy, release = HeavyReads(running=1, waiting=1, patience_s=20), threading.Event()
        first = asyncio.create_task(heavy.run(lambda: release.wait(20)))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(heavy.run(lambda: "second"))
        await asyncio.sleep(0.05)
        with pytest.raises(Problem) as refused:
            await heavy.run(lambda: "third")
        assert (refused.value.reason, refused.value.headers["Retry-After"]) == ("busy", "5")
        release.set()
        assert await first
        assert await second == "second"

    asyncio.run(scenario())


def test_a_read_that_waits_too_long_is_refused_and_gives_its_place_back():
    async def scenario():
        heavy, release = HeavyReads(running=1, waiting=5, patience_s=0.05), threading.Event()
        first = asyncio.create_task(heavy.run(lambda: release.wait(20)))
        await asyncio.sleep(0.01)
        with pytest.raises(Problem):
            await heavy.run(lambda: None)
        first.cancel()  # its client leaves; the thread still runs
        with pytest.raises(Problem):
            await heavy.run(lambda: None)
        release.set()
        await asyncio.sleep(0.05)
        assert await heavy.run(lambda: "now") == "now"

    asyncio.run(scenario())


def test_six_heat_maps_at_once_do_not_hold_up_ingest(running):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(heatmap(running).status_code))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    worst = 0.0
    for i in range(10):
        began = time.monotonic()
        small = batch(scalars("x"), run=f"s{i}", source=bytes([i]) * 16)
        assert running.send(small).status_code == 200
        worst = max(worst, time.monotonic() - began)
    for thread in threads:
        thread.join()
    assert worst < 3, f"{worst:.1f} s"
    assert set(answers) <= {200, 503}
    assert answers.count(200) >= 2


def test_reads_of_many_curves_wait_for_each_other_and_reads_of_few_do_not(tmp_path):
    with running_collector(tmp_path) as collector:
        names = [f"layer.{i}" for i in range(10)]
        layout = Layout(Stream.WEIGHT, 0, (Stat.MEAN,), tuple(map(Place, names)))
        rows = frame(Stream.WEIGHT, range(3), np.ones((3, 10, 1)))
        assert collector.send(batch(layout, rows)).status_code == 200
        collector.app.state.curve_reads.close()
        collector.app.state.curve_reads = HeavyReads(waiting=0)

        def read(count):
            return collector.get(
                "/api/v1/runs/r/series", stream="weight", statistic="mean", place=names[:count]
            )

        assert read(9).status_code == 200
        assert (read(10).status_code, read(10).json()["reason"]) == (503, "busy")
