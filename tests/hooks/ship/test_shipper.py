"""What is handed over arrives once and in order, or is counted; the training never waits."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from helpers.ports import free_port
from helpers.tiny_collector import tiny_collector
from trainvitals.ship import Shipper, adopt, backoff, parse_url, sender
from trainvitals.ship.buffer import Buffer
from trainvitals.wire import Dropped, Frame, Layout, Place, RunEnd, RunStart, Stat, Stream

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch):
    monkeypatch.setattr(backoff, "DELAY_FIRST_S", 0.05)
    monkeypatch.setattr(backoff, "DELAY_MAX_S", 0.1)
    monkeypatch.setattr(backoff, "BREAKER_MAX_S", 0.1)
    monkeypatch.setattr(backoff, "TOKEN_EVERY_S", 0.1)
    monkeypatch.setattr(sender, "EXCHANGE_S", 1.0)
    monkeypatch.setattr(adopt, "EXCHANGE_S", 1.0)


def shipper_to(url, spool_dir, **options) -> Shipper:
    shipper = Shipper(
        **{"url": url, "token": "t", "run": "r", "project": "p", "spool_dir": spool_dir, **options}
    )
    shipper.put(RunStart(0.0, name="r"))
    shipper.put(Layout(Stream.SCALAR, 0, (Stat.VALUE,), (Place("loss"),)))
    return shipper


def frame(step: int, places: int = 1, stream: Stream = Stream.SCALAR, layout: int = 0) -> Frame:
    values = np.full((1, places, 1), step, np.float32)
    return Frame(stream, layout, np.array([step]), np.array([float(step)]), values)


def train(shipper: Shipper, steps: range, pause_s: float = 0.0, layout: int = 0) -> None:
    for step in steps:
        shipper.put(frame(step, layout=layout))
        time.sleep(pause_s)


def wait_until(condition, timeout_s=15.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def balanced(shipper: Shipper) -> bool:
    s = shipper.status
    return s.produced == s.acknowledged + s.waiting + s.dropped + shipper._buffer.dropped


def test_everything_arrives_once_and_in_order(tmp_path):
    with tiny_collector() as collector:
        shipper = shipper_to(collector.url, tmp_path)
        train(shipper, range(100))
        shipper.put(RunEnd(0.0, 99, "finished"))
        shipper.close()
    assert collector.steps() == list(range(100))
    assert [b.seq for b in collector.batches] == list(range(len(collector.batches)))
    assert isinstance(collector.batches[0].records[0], RunStart)
    [end] = collector.records(RunEnd)
    assert (end.produced, end.dropped) == (103, 0)
    assert end.last_seq == collector.batches[-1].seq
    assert shipper.status.acknowledged == 103
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "trouble",
    ["hole", "reset", "drip", "garbage", "500", "503", "429", "commits, but the answer is lost"],
)
def test_after_trouble_everything_arrives_once_and_in_order(trouble, tmp_path):
    with tiny_collector(trouble) as collector:
        shipper = shipper_to(collector.url, tmp_path)
        train(shipper, range(40))
        wait_until(lambda: shipper.status.state == "away")
        train(shipper, range(40, 60))
        collector.behave = "well"
        wait_until(lambda: shipper.status.waiting == 0 and shipper.status.acknowledged >= 62)
        shipper.close()
    assert collector.steps() == list(range(60))
    assert balanced(shipper)


def test_without_a_token_it_keeps_spooling_and_sends_with_a_new_one(tmp_path):
    token = ["wrong"]
    with tiny_collector("401") as collector:
        shipper = shipper_to(collector.url, tmp_path, token=lambda: token[0])
        train(shipper, range(10))
        wait_until(lambda: shipper.status.state == "unauthorised")
        token[0], collector.behave = "right", "well"
        wait_until(lambda: shipper.status.acknowledged == 12)
        shipper.close()
    assert collector.steps() == list(range(10))
    assert collector.tokens[-1] == "Bearer right"


def test_what_is_refused_for_good_is_set_aside_and_counted_and_the_rest_goes_on(tmp_path):
    with tiny_collector("malformed") as collector:
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: shipper.status.dropped == 2)
        collector.behave = "well"
        shipper.put(Layout(Stream.SCALAR, 1, (Stat.VALUE,), (Place("loss"),)))
        train(shipper, range(5), layout=1)
        wait_until(lambda: shipper.status.acknowledged == 6)
        shipper.close()
    assert len(list(tmp_path.glob("*/rejected/*.batch"))) == 2
    assert balanced(shipper)


def test_with_nobody_there_closing_is_quick_and_everything_waits_on_disk(tmp_path):
    shipper = shipper_to(NOWHERE, tmp_path)
    train(shipper, range(50))
    wait_until(lambda: shipper.status.state == "away")
    start = time.monotonic()
    shipper.close()
    assert time.monotonic() - start < 0.5
    assert shipper.status.waiting == 52
    assert balanced(shipper)


def test_into_a_black_hole_closing_ends_by_its_deadline(tmp_path):
    with tiny_collector("hole") as collector:
        shipper = shipper_to(collector.url, tmp_path)
        train(shipper, range(10))
        wait_until(lambda: collector.requests > 0)
        start = time.monotonic()
        shipper.close(deadline_s=1.0)
        assert time.monotonic() - start < 1.5
    assert list(tmp_path.glob("*/*.segment"))


def test_what_a_killed_process_left_is_sent_by_the_next_one(tmp_path):
    port = free_port()
    script = f"""
import sys, time
sys.path.insert(0, "tests")
from pathlib import Path
import numpy as np
from trainvitals.ship import Shipper
from trainvitals.wire import *
folder = Path({str(tmp_path)!r})
s = Shipper(url="http://127.0.0.1:{port}", token="t", run="killed", project="p", spool_dir=folder)
s.put(Layout(Stream.SCALAR, 0, (Stat.VALUE,), (Place("loss"),)))
for step in range(20):
    values = np.ones((1, 1, 1), np.float32)
    s.put(Frame(Stream.SCALAR, 0, np.array([step]), np.array([0.0]), values))
time.sleep(1.5)
print("spooled", flush=True)
time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "spooled\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with tiny_collector(port=port) as collector:
        shipper = shipper_to(collector.url, tmp_path, run="next")
        wait_until(lambda: {b.run for b in collector.batches} == {"killed", "next"})
        wait_until(lambda: not list(tmp_path.iterdir()))
        shipper.close()
    left = [b for b in collector.batches if b.run == "killed"]
    steps = [int(s) for b in left for f in b.records if isinstance(f, Frame) for s in f.steps]
    assert steps == list(range(20))


def test_the_spool_of_a_living_process_is_left_alone(tmp_path):
    living = shipper_to(NOWHERE, tmp_path, run="living")
    wait_until(lambda: list(tmp_path.glob("*/*.segment")))
    with tiny_collector() as collector:
        other = shipper_to(collector.url, tmp_path, run="other")
        wait_until(lambda: other.status.acknowledged == 2)
        time.sleep(0.7)
        other.close()
    assert {b.run for b in collector.batches} == {"other"}
    living.close()


def test_a_full_queue_leaves_tensors_out_first_and_tells_how_many(tmp_path):
    with tiny_collector("hole") as collector:
        shipper = shipper_to(collector.url, tmp_path, queue_bytes_max=20_000)
        wait_until(lambda: collector.requests > 0)
        for step in range(20):
            shipper.put(frame(step, places=1000, stream=Stream.GRADIENT))
            shipper.put(frame(step))
        shipper.put(Layout(Stream.GRADIENT, 0, (Stat.L2,), (Place("w"),)))
        collector.behave = "well"
        wait_until(lambda: len(collector.records(Layout)) == 2)
        shipper.close()
    scalars = [f for f in collector.records(Frame) if f.stream is Stream.SCALAR]
    told = [d for d in collector.records(Dropped) if d.reason == "queue_full"]
    assert sum(len(f.steps) for f in scalars) == 20
    assert {d.stream for d in told} == {"gradient"}
    assert sum(d.records for d in told) == shipper._buffer.dropped > 0
    assert balanced(shipper)


def test_a_build_whose_queue_has_no_bound_is_found(tmp_path, monkeypatch):
    def put(buffer, record):
        buffer.produced += 1
        buffer._queue.append((record, 0))
        return True

    monkeypatch.setattr(Buffer, "put", put)
    with pytest.raises(AssertionError):
        test_a_full_queue_leaves_tensors_out_first_and_tells_how_many(tmp_path)


def test_a_full_spool_drops_and_counts_and_introduces_the_layouts_again(tmp_path):
    shipper = shipper_to(NOWHERE, tmp_path, spool_bytes_max=600)
    train(shipper, range(64), pause_s=0.03)
    wait_until(lambda: shipper.status.dropped > 0)
    shipper.close()
    assert balanced(shipper)
    assert shipper.status.waiting > 0


def test_an_unwritable_spool_drops_and_counts_and_nothing_raises(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    shipper = shipper_to(NOWHERE, in_the_way)
    train(shipper, range(10))
    wait_until(lambda: shipper.status.last_error)
    shipper.close()
    assert shipper.status.dropped == 12
    assert balanced(shipper)
    assert shipper.status.last_error


def test_after_close_nothing_is_taken_and_closing_again_is_fine(tmp_path):
    shipper = shipper_to(NOWHERE, tmp_path)
    shipper.close()
    produced = shipper.status.produced
    shipper.put(frame(1))
    shipper.close()
    assert shipper.status.produced == produced


@pytest.mark.parametrize(
    "url", ["", "localhost:8321", "ftp://x", "http://", "http://x:port", "http://a:b@c"]
)
def test_a_url_that_is_none_says_what_one_looks_like(url):
    with pytest.raises(ValueError, match="looks like http://127"):
        parse_url(url)
