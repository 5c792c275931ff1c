"""While a spool fills up, frames of tensors are thinned and end first, findings and events last."""

import os
import shutil
import time
from collections import namedtuple

import numpy as np
import pytest

from helpers.ports import free_port
from helpers.tiny_collector import tiny_collector
from trainvitals.ship import Shipper, backoff, sender
from trainvitals.ship import shipper as shipping
from trainvitals.ship.segments import Spooled, frame_of
from trainvitals.ship.spool import Owner, Spool, SpoolFull
from trainvitals.ship.thinning import Thinning
from trainvitals.wire import Dropped, Event, Frame, Layout, Place, RunStart, Stat, Stream

OWNER = Owner("http://127.0.0.1:9", "r", "p")
Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """Return a function that sets the free bytes of the disk."""

    def has(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**12, 10**12 - free, free))

    return has


def wait_until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def frame(step: int, stream: Stream, places: int = 1) -> Frame:
    values = np.random.default_rng(step).random((1, places, 1), np.float32)
    return Frame(stream, 0, np.array([step]), np.array([float(step)]), values)


def kept(stream: Stream, used: float) -> list[int]:
    thinning = Thinning()
    return [step for step in range(16) if thinning.keeps(frame(step, stream), used)]


@pytest.mark.parametrize(
    ("used", "every"), [(0.0, 1), (0.49, 1), (0.5, 2), (0.6, 4), (0.7, 8), (0.79, 8)]
)
def test_frames_of_tensors_are_thinned_the_more_the_fuller_it_is(used, every):
    assert kept(Stream.GRADIENT, used) == list(range(0, 16, every))
    assert kept(Stream.SCALAR, used) == list(range(16))


def test_frames_of_tensors_end_before_those_of_scalars():
    assert kept(Stream.WEIGHT, 0.8) == []
    assert kept(Stream.SCALAR, 0.94) == list(range(16))
    assert kept(Stream.SCALAR, 0.95) == []


def test_all_streams_keep_the_same_captures():
    thinning = Thinning()
    found = {
        stream: [step for step in range(0, 800, 50) if thinning.keeps(frame(step, stream), 0.65)]
        for stream in (Stream.WEIGHT, Stream.GRADIENT)
    }
    assert found[Stream.WEIGHT] == found[Stream.GRADIENT] == [0, 200, 400, 600]


def test_after_an_outage_that_fills_the_spool_every_event_and_scalar_arrives(tmp_path, monkeypatch):
    monkeypatch.setattr(backoff, "DELAY_MAX_S", 0.1)
    monkeypatch.setattr(backoff, "BREAKER_MAX_S", 0.1)
    monkeypatch.setattr(sender, "LOOK_S", 0.05)
    monkeypatch.setattr(shipping, "INTERVAL_S", 0.02)
    port = free_port()
    shipper = Shipper(
        url=f"http://127.0.0.1:{port}",
        token="t",
        run="r",
        project="p",
        spool_dir=tmp_path,
        spool_bytes_max=400_000,
    )
    shipper.put(RunStart(0.0, name="r"))
    for stream, places in ((Stream.SCALAR, 1), (Stream.GRADIENT, 5000)):
        names = tuple(Place(f"w{i}") for i in range(places))
        shipper.put(Layout(stream, 0, (Stat.L2,), names))
    for step in range(100):
        shipper.put(frame(step, Stream.SCALAR))
        shipper.put(frame(step, Stream.GRADIENT, places=5000))
        shipper.put(Event(step, float(step), "first_nan"))
        wait_until(lambda: len(shipper._buffer) == 0)
    spooled = [path.stat().st_size for path in tmp_path.glob("*/*.segment")]
    assert 0 < sum(spooled) <= 400_000
    with tiny_collector(port=port) as collector:
        wait_until(lambda: shipper.status.waiting == 0)
        wait_until(lambda: collector.records(Dropped))
        shipper.close()
    frames = collector.records(Frame)
    steps = {
        stream: [int(step) for f in frames if f.stream is stream for step in f.steps]
        for stream in (Stream.SCALAR, Stream.GRADIENT)
    }
    assert sorted(steps[Stream.SCALAR]) == list(range(100))
    assert sorted(event.step for event in collector.records(Event)) == list(range(100))
    told = [d for d in collector.records(Dropped) if d.reason == "spool_full"]
    assert {d.stream for d in told} == {"gradient"}
    assert sum(d.records for d in told) == 100 - len(steps[Stream.GRADIENT]) > 0
    status = shipper.status
    assert status.produced == status.acknowledged + status.dropped


def test_it_uses_at_most_2_percent_of_the_free_space_of_the_disk(tmp_path, disk):
    spool = Spool.create(tmp_path, b"s" * 16, 256 * 2**20, OWNER)
    disk(100_000)
    spool.append(Spooled(0, 1, bytes(1500)))
    with pytest.raises(SpoolFull, match="has reached 20"):
        spool.append(Spooled(1, 1, bytes(1500)))
    assert spool.first() == Spooled(0, 1, bytes(1500))
    disk(10**6)
    spool.append(Spooled(1, 1, bytes(1500)))
    spool.close()


def test_on_a_disk_with_much_space_its_own_limit_applies(tmp_path, disk):
    spool = Spool.create(tmp_path, b"s" * 16, 5000, OWNER)
    disk(10**12)
    with pytest.raises(SpoolFull, match="has reached 5000"):
        spool.append(Spooled(0, 1, bytes(5000)))
    spool.close()


def test_rejected_batches_take_a_share_of_what_it_may_use(tmp_path, disk):
    spool = Spool.create(tmp_path, b"s" * 16, 256 * 2**20, OWNER)
    disk(100_000)
    for seq in range(10):
        spool.reject(Spooled(seq, 1, bytes(100)))
    assert spool.size() == 200
    spool.close()


def test_a_full_disk_leaves_no_empty_segments_and_recovers(tmp_path, monkeypatch):
    left = Spool.create(tmp_path, b"o" * 16, 10**6, OWNER)
    write = os.write

    def full(descriptor, data):
        write(descriptor, bytes(data[:10]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for seq in range(5):
        with pytest.raises(OSError, match="No space"):
            left.append(Spooled(seq, 1, b"x" * 100))
    assert not list(left.folder.glob("*.segment"))
    monkeypatch.setattr(os, "write", write)
    left.append(Spooled(7, 1, b"y"))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        left.append(Spooled(8, 1, b"z"))
    [segment] = left.folder.glob("*.segment")
    assert segment.stat().st_size == len(frame_of(Spooled(7, 1, b"y"), b"salt" * 2))
    assert left.first() == Spooled(7, 1, b"y")


def test_a_build_that_appends_after_a_failed_write_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Spool, "_undo", lambda _: None)
    with pytest.raises(AssertionError):
        test_a_full_disk_leaves_no_empty_segments_and_recovers(tmp_path, monkeypatch)
