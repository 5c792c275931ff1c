"""The cost of a batch in the collector, regardless of its content: it limits the number of ranks.

    python benchmarks/store_ranks.py [--database postgres] [--ranks 8] [--batches 150]
    python benchmarks/store_ranks.py --ranks 64 --minutes 10

Each rank sends batches of 5 steps × 10 scalars over HTTP, one after the other, with the client that
the trainer uses. The CPU time is that of the collector (with Postgres: and of its server).

With `--minutes`, each rank is a run of its own that takes 10 steps a second and sends two batches a
second at fixed times; every second batch also has one step of all statistics of the weights,
gradients and updates of `--tensors` tensors. How late the acknowledgements are, per minute, shows
whether the queue grows; the rounds of the diagnosis run. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import store as large
from trainvitals.ship.http import Acknowledged, Link, parse_url
from trainvitals.wire import (
    STATISTICS,
    Batch,
    Frame,
    Layout,
    Place,
    RunStart,
    Stat,
    Stream,
    encode,
)

STEPS, SCALARS = 5, 10
PERIOD_S = 0.5
"""Seconds between two batches of a paced rank: STEPS steps, 10 a second."""
PARAMETERS = (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE)


def bodies(rank: int, count: int) -> tuple[bytes, list[bytes]]:
    """Return (source, bodies) of one rank."""
    source = rank.to_bytes(16, "big")
    layout = Layout(
        Stream.SCALAR, 0, (Stat.VALUE,), tuple(Place(f"scalar{i}") for i in range(SCALARS))
    )
    values = np.random.default_rng(rank).random((STEPS, SCALARS, 1)).astype("<f4")
    sent = []
    for seq in range(count):
        steps = np.arange(seq * STEPS, (seq + 1) * STEPS)
        head = (RunStart(started_at=1.0), layout) if seq == 0 else ()
        frame = Frame(Stream.SCALAR, 0, steps, 1.0 + steps, values)
        sent.append(encode(Batch("run", "p", source, seq, 1.0, rank, (*head, frame))))
    return source, sent


def measured(kind: str, ranks: int, count: int) -> dict[str, object]:
    """Return the CPU time of a batch, and the times of acknowledgements."""
    with (
        large.database(kind) as (url, pids),
        tempfile.TemporaryDirectory() as folder,
        large.collector(Path(folder), url, diagnose=False) as at,
    ):
        pids = [*pids, at.pid]
        times: list[float] = []
        threads = [
            threading.Thread(target=large.send, args=(at, *bodies(rank, count), times))
            for rank in range(1, ranks + 1)
        ]
        before, began = large.cpu_seconds(pids), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall_s, cpu_s = time.perf_counter() - began, large.cpu_seconds(pids) - before
    return {
        "database": kind,
        "batches": ranks * count,
        "cpu_ms_per_batch": 1000 * cpu_s / (ranks * count),
        "batches_per_s_wall": ranks * count / wall_s,
        "ack_ms_p50": 1000 * float(np.percentile(times, 50)),
        "ack_ms_p99": 1000 * float(np.percentile(times, 99)),
    }


class PacedRank:
    """One run with one process; its batches are made when they are sent."""

    def __init__(self, number: int, tensors: int) -> None:
        self._run, self._source = f"run-{number}", number.to_bytes(16, "big")
        self._random = np.random.default_rng(number)
        places = tuple(Place(f"layer{i}.weight") for i in range(tensors))
        scalars = tuple(Place(f"scalar{i}") for i in range(SCALARS))
        self._layouts = [Layout(Stream.SCALAR, 0, (Stat.VALUE,), scalars)]
        self._layouts += [Layout(s, 0, STATISTICS[s], places) for s in PARAMETERS]
        self.late: list[tuple[float, float]] = []
        """Time since the start, and how long after its planned time a batch was acknowledged."""
        self.failed = 0

    def send(self, at: large.Collector, started: float, end: float) -> None:
        """Send a batch every PERIOD_S seconds until `end` (monotonic clock)."""
        address, offset = parse_url(at.url), PERIOD_S * self._random.random()
        with Link() as link:
            seq = 0
            while (due := started + offset + seq * PERIOD_S) < end:
                time.sleep(max(0.0, due - time.monotonic()))
                body = self._body(seq)
                while not isinstance(
                    link.post(
                        address, at.token, body, source=self._source, seq=seq, deadline_s=10.0
                    ),
                    Acknowledged,
                ):
                    self.failed += 1
                    time.sleep(0.1)
                self.late.append((due - started, time.monotonic() - due))
                seq += 1

    def _body(self, seq: int) -> bytes:
        steps = np.arange(seq * STEPS, (seq + 1) * STEPS)
        frames = [self._frame(self._layouts[0], steps)]
        if seq % 2 == 0:
            frames += [self._frame(layout, steps[-1:]) for layout in self._layouts[1:]]
        head = (RunStart(started_at=time.time()), *self._layouts) if seq == 0 else ()
        return encode(Batch(self._run, "p", self._source, seq, time.time(), 0, (*head, *frames)))

    def _frame(self, layout: Layout, steps: np.ndarray) -> Frame:
        shape = len(steps), len(layout.places), len(layout.statistics)
        values = self._random.normal(size=shape).astype("<f4")
        return Frame(layout.stream, 0, steps, time.time() + 0.1 * np.arange(len(steps)), values)


def held(kind: str, ranks: int, tensors: int, minutes: float) -> dict[str, object]:
    """Return how late acknowledgements were in each minute, and the collector's CPU time."""
    with (
        large.database(kind) as (url, pids),
        tempfile.TemporaryDirectory() as folder,
        large.collector(Path(folder), url, diagnose=True) as at,
    ):
        pids = [*pids, at.pid]
        senders = [PacedRank(number, tensors) for number in range(1, ranks + 1)]
        before, started = large.cpu_seconds(pids), time.monotonic()
        end = started + 60 * minutes
        threads = [threading.Thread(target=s.send, args=(at, started, end)) for s in senders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall_s, cpu_s = time.monotonic() - started, large.cpu_seconds(pids) - before
    late = np.array([pair for s in senders for pair in s.late])
    minute = (late[:, 0] // 60).astype(int)
    by_minute = [1000 * late[minute == m, 1] for m in range(max(minute) + 1)]
    return {
        "database": kind,
        "ranks": ranks,
        "steps": int(STEPS * len(late)),
        "failed_requests": sum(s.failed for s in senders),
        "collector_cores": cpu_s / wall_s,
        "late_ms_p50_by_minute": [round(float(np.percentile(m, 50)), 1) for m in by_minute],
        "late_ms_p99_by_minute": [round(float(np.percentile(m, 99)), 1) for m in by_minute],
        "late_ms_max": round(1000 * float(late[:, 1].max()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a batch, regardless of its content.")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--minutes", type=float, help="paced ranks, for this long")
    parser.add_argument("--tensors", type=int, default=50, help="of each paced rank")
    given = parser.parse_args()
    if given.minutes is None:
        figures = measured(given.database, given.ranks, given.batches)
    else:
        figures = held(given.database, given.ranks, given.tensors, given.minutes)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
