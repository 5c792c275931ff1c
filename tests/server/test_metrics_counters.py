"""What ingest counts: every request once, under a few names only."""

import math
import threading

import numpy as np
import pytest

from trainvitals.wire import Batch, Frame, Heartbeat, Stream
from trainvitals_server.publish.counters import IngestCounters, distribution, histogram


def batch(*records, sent_at=100.0):
    return Batch("run", "project", b"s" * 16, 0, sent_at, 0, records)


def frame_at(*times):
    steps = np.arange(len(times), dtype=np.int64)
    return Frame(Stream.SCALAR, 0, steps, np.array(times), np.zeros((len(times), 1, 1), "f4"))


def test_a_repeat_is_a_request_and_adds_no_records():
    counters = IngestCounters()
    for stored in (True, False):
        counters.accepted(batch(Heartbeat(1.0, 1)), 50, stored=stored, now=101.0)
    counts = counters.read()
    assert counts.requests == {"stored": 1, "duplicate": 1}
    assert (counts.records, counts.bytes) == (1, 50)


def test_a_reason_nobody_has_heard_of_is_no_label_of_its_own():
    counters = IngestCounters()
    counters.refused("too_large")
    counters.refused("<script>")
    assert counters.read().requests == {"too_large": 1, "error": 1}


def test_lag_is_measured_from_the_newest_captured_step():
    counters = IngestCounters()
    counters.accepted(batch(frame_at(90.0, 98.0)), 1, stored=True, now=101.0)
    assert counters.read().lag.total == pytest.approx(3.0)


def test_a_trainer_whose_clock_is_ahead_has_no_negative_lag():
    counters = IngestCounters()
    counters.accepted(batch(frame_at(500.0)), 1, stored=True, now=101.0)
    assert counters.read().lag.total == 0.0


def test_a_write_that_fails_is_timed_too():
    counters = IngestCounters()

    def fail():
        with counters.writing():
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert counters.read().write.count == 1


def test_a_bucket_takes_its_own_bound_in():
    times = histogram([1, 2])
    for value in (1.0, 1.5, 2.0, 3.0):
        times.observe(value)
    assert distribution(times).buckets == (("1.0", 1), ("2.0", 3), ("+Inf", 4))
    assert math.isclose(distribution(times).total, 7.5)


def test_no_count_is_lost_between_threads():
    counters = IngestCounters()

    def count():
        for _ in range(500):
            counters.accepted(batch(), 2, stored=True, now=100.0)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = counters.read()
    assert (counts.requests["stored"], counts.bytes, counts.lag.count) == (2000, 4000, 2000)
