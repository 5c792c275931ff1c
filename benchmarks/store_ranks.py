"""The cost of a batch in the collector, regardless of its content: it limits the number of ranks.

    python benchmarks/store_ranks.py [--database postgres] [--ranks 8] [--batches 150]

Each rank sends batches of 5 steps × 10 scalars over HTTP, one after the other, with the client that
the trainer uses. The CPU time is that of the collector (with Postgres: and of its server). Prints
one JSON object.
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
from trainvitals.wire import Batch, Frame, Layout, Place, RunStart, Stat, Stream, encode

STEPS, SCALARS = 5, 10


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


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a batch, regardless of its content.")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--batches", type=int, default=150)
    given = parser.parse_args()
    print(json.dumps(measured(given.database, given.ranks, given.batches), indent=2))


if __name__ == "__main__":
    main()
