"""Kills, forks, cleaned folders, full disks and left-over spools lose and delay nothing."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from helpers.ports import free_port
from helpers.tiny_collector import tiny_collector
from trainvitals.ship import Shipper, adopt, backoff, sender
from trainvitals.ship.http import post
from trainvitals.ship.segments import Spooled, frame_of
from trainvitals.ship.shipper import INTERVAL_S
from trainvitals.ship.spool import Owner, Spool, SpoolFull, folders
from trainvitals.wire import Batch, Dropped, Frame, Layout, Place, RunStart, Stat, Stream, encode

NOWHERE = "http://127.0.0.1:9"
OTHER = b"o" * 16


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch):
    monkeypatch.setattr(backoff, "DELAY_FIRST_S", 0.05)
    monkeypatch.setattr(backoff, "DELAY_MAX_S", 0.1)
    monkeypatch.setattr(backoff, "BREAKER_MAX_S", 0.1)
    for part in (sender, adopt):
        monkeypatch.setattr(part, "EXCHANGE_S", 1.0)


def frame(step: int) -> Frame:
    values = np.full((1, 1, 1), step, np.float32)
    return Frame(Stream.SCALAR, 0, np.array([step]), np.array([float(step)]), values)


def shipper_to(url: str, folder, **options) -> Shipper:
    shipper = Shipper(
        **{"url": url, "token": "t", "run": "live", "project": "p", "spool_dir": folder, **options}
    )
    shipper.put(RunStart(0.0, name="r"))
    shipper.put(Layout(Stream.SCALAR, 0, (Stat.VALUE,), (Place("loss"),)))
    return shipper


def wait_until(condition, timeout_s=15.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def is_balanced(shipper: Shipper) -> bool:
    s = shipper.status
    return s.produced == s.acknowledged + s.waiting + s.dropped + shipper._buffer.dropped


def left_over(folder, url: str, source: bytes = OTHER, batches: int = 3):
    """Make the spool of a process that has ended; return its folder."""
    left = Spool.create(folder, source, 10**7, Owner(url, "old", "p"))
    layout = Layout(Stream.SCALAR, 0, (Stat.VALUE,), (Place("loss"),))
    for seq in range(batches):
        body = encode(Batch("old", "p", source, seq, 0.0, 0, (layout, frame(seq))))
        left.append(Spooled(seq, 2, body))
    left.close()
    return left.folder


def runs_of(collector) -> set[str]:
    return {batch.run for batch in collector.batches}


# Which collector a spool is for.


def test_a_spool_is_delivered_to_no_other_collector_than_its_own(tmp_path):
    folder = left_over(tmp_path, NOWHERE)
    with tiny_collector() as collector:
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: shipper.status.acknowledged == 2)
        time.sleep(1.0)
        shipper.close()
    assert runs_of(collector) == {"live"}
    assert list(folder.glob("*.segment"))


def test_a_spool_that_names_no_collector_is_left_alone(tmp_path):
    with tiny_collector() as collector:
        folder = left_over(tmp_path, collector.url)
        (folder / "owner.json").write_text("{")
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: shipper.status.acknowledged == 2)
        time.sleep(1.0)
        shipper.close()
    assert runs_of(collector) == {"live"}


# Left-over spools beside the live run.


@pytest.mark.parametrize("behave", ["403", "401", "hole", "503"])
def test_a_left_over_spool_that_is_refused_delays_nothing(tmp_path, behave):
    with tiny_collector() as collector:
        well = collector.answer

        def answer(handler, batch):
            collector.behave = behave if batch.source == OTHER else "well"
            well(handler, batch)

        collector.answer = answer
        left_over(tmp_path, collector.url)
        left_over(tmp_path, collector.url, source=b"p" * 16)
        shipper = shipper_to(collector.url, tmp_path)
        start = time.monotonic()
        for step in range(40):
            shipper.put(frame(step))
            time.sleep(0.05)
        wait_until(lambda: shipper.status.acknowledged == 42)
        assert time.monotonic() - start < 4
        wait_until(lambda: b"p" * 16 in {batch.source for batch in collector.batches})
        start = time.monotonic()
        shipper.close()
        assert time.monotonic() - start < 0.5
    assert shipper.status.state == "closed"
    assert folders(tmp_path), "the refused one waits"


def test_what_cannot_be_read_among_left_over_spools_ends_nothing(tmp_path):
    with tiny_collector() as collector:
        (tmp_path / ("a" * 32)).mkdir()
        (tmp_path / ("a" * 32) / "00000000.segment").mkdir()
        (tmp_path / ("b" * 32)).mkdir()
        (tmp_path / ("b" * 32) / "lock").mkdir()
        (tmp_path / ("c" * 32)).write_text("no folder")
        junk = left_over(tmp_path, collector.url, source=b"j" * 16)
        (junk / "00000000.segment").write_bytes(os.urandom(5000))
        (junk / "x.segment").write_bytes(b"junk")
        (tmp_path / "notes").mkdir()
        left_over(tmp_path, collector.url)
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: "old" in runs_of(collector))
        wait_until(lambda: shipper._adoption.stop.is_set())
        shipper.put(frame(1))
        wait_until(lambda: shipper.status.acknowledged == 3)
        shipper.close()
    assert shipper.status.errors == 0
    assert (tmp_path / "notes").is_dir()


def test_a_run_that_ends_while_left_over_spools_are_sent_loses_nothing(tmp_path):
    with tiny_collector() as collector:
        well = collector.answer

        def answer(handler, batch):
            time.sleep(0.2 if batch.source == OTHER else 0)
            well(handler, batch)

        collector.answer = answer
        left_over(tmp_path, collector.url, batches=50)
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: "old" in runs_of(collector))
        for step in range(50):
            shipper.put(frame(step))
        shipper.close()
        live = [b for b in collector.batches if b.run == "live"]
    steps = [int(s) for b in live for f in b.records if isinstance(f, Frame) for s in f.steps]
    assert steps == list(range(50))
    assert is_balanced(shipper)


# Killed, forked, cleaned.


LOST_S = INTERVAL_S + 0.1
"""What a killed process may lose: the records of a flush interval, and of the write to disk."""


@pytest.mark.parametrize(
    "kill", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 50))]
)
def test_killed_before_a_black_hole_it_loses_no_more_than_a_flush_interval(tmp_path, kill):
    lost_s = lost_by_a_kill(tmp_path, after_steps=300 + 7 * kill)
    print(f"{lost_s:.2f} s lost")
    assert lost_s <= LOST_S


def test_a_build_that_writes_nothing_to_disk_during_an_exchange_is_found(tmp_path):
    broken = "from trainvitals.ship import sender; sender.BUSY_S = 60"
    assert lost_by_a_kill(tmp_path, after_steps=150, broken=broken) > 2 * LOST_S


def lost_by_a_kill(tmp_path, after_steps, broken=""):
    """Return from when on the records of a process that is killed are lost, in s before its end.

    Its collector takes the first request and does not answer. What is left arrives in order.
    """
    port = free_port()
    script = f"""
import sys, time
from pathlib import Path
import numpy as np
from trainvitals.ship import Shipper
from trainvitals.wire import *
{broken}
s = Shipper(url="http://127.0.0.1:{port}", token="t", run="killed", project="p",
            spool_dir=Path({str(tmp_path)!r}))
s.put(Layout(Stream.SCALAR, 0, (Stat.VALUE,), (Place("loss"),)))
for step in range(10_000):
    values = np.ones((1, 1, 1), np.float32)
    s.put(Frame(Stream.SCALAR, 0, np.array([step]), np.array([time.time()]), values))
    print(step, flush=True)
    time.sleep(0.01)
"""
    began = time.time()
    with tiny_collector("hole", port=port) as collector:
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert child.stdout
        while int(child.stdout.readline()) < after_steps:
            pass
        killed_at = time.time()
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert collector.requests == 1, "the exchange is still the first one"
    with tiny_collector(port=port) as collector:
        delivery = shipper_to(collector.url, tmp_path)
        wait_until(lambda: delivery._sender.acknowledged.is_set())
        wait_until(lambda: delivery._adoption.stop.is_set())
        delivery.close()
    assert collector.steps() == list(range(len(collector.steps())))
    times = [float(record.times[-1]) for record in collector.records(Frame)]
    return killed_at - max(times, default=began)


def test_a_forked_child_closes_no_descriptor_twice_and_leaves_the_parent_alone(tmp_path):
    shipper = shipper_to(NOWHERE, tmp_path)
    wait_until(lambda: list(tmp_path.glob("*/*.segment")))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            before = set(os.listdir("/proc/self/fd"))
            shipper.forget()
            freed = len(before) - len(os.listdir("/proc/self/fd"))
            mine = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
            del shipper
            gc.collect()
            for descriptor in mine:
                os.fstat(descriptor)  # raises when somebody closed it
            status = 0 if freed in (1, 2) else 2  # the lock, and the segment if it is open
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(BlockingIOError):
        Spool.adopt(folders(tmp_path)[0], 10**6)
    shipper.put(frame(0))
    shipper.close()
    assert shipper.status.waiting == 3


def test_no_python_file_object_holds_a_descriptor_of_the_spool(tmp_path):
    left = Spool.create(tmp_path, OTHER, 10**6, Owner(NOWHERE, "r", "p"))
    left.append(Spooled(0, 1, b"x"))
    assert not [value for value in vars(left).values() if hasattr(value, "fileno")]
    left.close()


def test_a_cleaned_spool_folder_is_made_again_and_what_was_in_it_is_counted(tmp_path):
    import shutil

    port = free_port()
    folder = tmp_path / "spool"
    shipper = shipper_to(f"http://127.0.0.1:{port}", folder)
    shipper.put(frame(0))
    wait_until(lambda: list(folder.glob("*/*.segment")))
    shutil.rmtree(folder)
    for step in range(1, 4):
        shipper.put(frame(step))
    wait_until(lambda: list(folder.glob("*/*.segment")))
    with tiny_collector(port=port) as collector:
        wait_until(lambda: shipper.status.waiting == 0)
        shipper.put(frame(4))
        wait_until(lambda: shipper.status.waiting == 0)
        shipper.close()
    assert collector.steps()[-1] == 4
    assert shipper.status.errors == 0
    assert is_balanced(shipper)


def test_one_unexpected_exception_is_counted_and_delivery_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("trainvitals.ship.shipper.INTERVAL_S", 0.1)
    raised = []

    def clumsy(*arguments, **options):
        if not raised:
            raised.append(1)
            raise MemoryError("only this once")
        return post(*arguments, **options)

    with tiny_collector() as collector:
        shipper = shipper_to(collector.url, tmp_path, exchange=clumsy)
        shipper.put(frame(0))
        wait_until(lambda: shipper.status.acknowledged == 3)
        shipper.close()
    assert collector.steps() == [0]
    assert shipper.status.errors == 1


@pytest.mark.parametrize(("answer_s", "times"), [(0, 20), (0.03, 8)])
def test_no_two_batches_have_one_number_however_often_it_closes_under_load(
    tmp_path, answer_s, times
):
    with tiny_collector() as collector:
        well = collector.answer

        def late(handler, batch):
            time.sleep(answer_s)  # so that it closes while a batch is under way
            well(handler, batch)

        collector.answer = late
        for _ in range(times):
            shipper = shipper_to(collector.url, tmp_path)
            for step in range(64):
                shipper.put(frame(step))
            shipper.close()
            assert shipper.status.acknowledged == 66
    keys = [(batch.source, batch.seq) for batch in collector.batches]
    assert len(keys) == len(set(keys)) == collector.requests


def test_opening_spools_while_others_are_adopted_never_fails(tmp_path):
    stop = threading.Event()
    failures = []

    def adopt_all():
        while not stop.is_set():
            for folder in folders(tmp_path):
                try:
                    Spool.adopt(folder, 10**6).close()
                except OSError:
                    continue

    threads = [threading.Thread(target=adopt_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1000):
        try:
            own = Spool.create(tmp_path, number.to_bytes(16), 10**6, Owner(NOWHERE, "r", "p"))
            own.append(Spooled(0, 1, b"x"))
            own.first()
            own.done()
            own.close()
        except OSError as error:
            failures.append(error)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures


# Full disks and spools.


def test_what_a_full_spool_drops_is_reported(tmp_path):
    port = free_port()
    shipper = shipper_to(f"http://127.0.0.1:{port}", tmp_path, spool_bytes_max=1500)
    for step in range(100):
        shipper.put(frame(step))
        time.sleep(0.02)
    wait_until(lambda: shipper.status.dropped > 0)
    with tiny_collector(port=port) as collector:
        wait_until(lambda: shipper.status.waiting == 0)
        wait_until(lambda: collector.records(Dropped))
        shipper.close()
    told = [d for d in collector.records(Dropped) if d.reason == "spool_full"]
    assert sum(d.records for d in told) == shipper.status.dropped > 0
    assert is_balanced(shipper)


def test_rejected_batches_are_part_of_the_spools_limit(tmp_path):
    left = Spool.create(tmp_path, OTHER, 10_000, Owner(NOWHERE, "r", "p"))
    for seq in range(100):
        left.reject(Spooled(seq, 1, b"x" * 300))
    assert 0 < left.size() <= 10_000 // 8
    with pytest.raises(SpoolFull):
        left.append(Spooled(100, 1, b"x" * 9_000))
    left.close()


def test_a_frame_of_an_older_segment_is_no_frame_of_this_one():
    from trainvitals.ship.segments import frames_of

    new = [Spooled(seq, 1, b"new") for seq in range(3)]
    stale = frame_of(Spooled(0, 1, b"old"), b"oldsalt!")
    whole = b"".join(frame_of(batch, b"newsalt!") for batch in new)
    assert frames_of(whole + stale) == new
    assert frames_of(frame_of(new[0], b"newsalt!") + stale) == new[:1]
