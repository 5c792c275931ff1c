"""CPU time and rate of the collector's store: receive a batch, store, seal and read it.

    python benchmarks/store.py [--batches 64] [--repeats 5]

Prints one JSON object: for each shape of run, the points per second that are committed and the CPU
time of each part, in microseconds for each batch. The best of `repeats` is reported: other programs
on the machine only add to it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainvitals.wire import Batch, Frame, Layout, Place, RunStart, Stat, Stream, decode, encode
from trainvitals_server.store import Store
from trainvitals_server.store.prepare import prepare
from trainvitals_server.store.seal import Compactor

STATISTICS = (Stat.MEAN, Stat.STD, Stat.MIN, Stat.MAX, Stat.L2, Stat.NONFINITE)
STEPS = 16
SHAPES = {"small": 8, "medium": 100, "large": 1000}
"""Places of each of the two streams of a run; one batch has 16 steps of both."""
STREAMS = (Stream.WEIGHT, Stream.GRADIENT)


def bodies(places: int, batches: int) -> Iterator[bytes]:
    """Yield the bodies that one training process sends."""
    rng = np.random.default_rng(0)
    rows = tuple(Place(f"blocks.{i}.attention.weight", depth=i) for i in range(places))
    head = [RunStart(0.0), *(Layout(stream, 0, STATISTICS, rows) for stream in STREAMS)]
    for seq in range(batches):
        steps = np.arange(seq * STEPS, (seq + 1) * STEPS)
        shape = (STEPS, places, len(STATISTICS))
        frames = [
            Frame(stream, 0, steps, 0.1 * steps, rng.standard_normal(shape, np.float32))
            for stream in STREAMS
        ]
        records = (*(head if seq == 0 else []), *frames)
        yield encode(Batch("run", "project", b"0123456789abcdef", seq, 0.0, 0, records))


def store_all(store: Store, pairs: list[tuple[Batch, bytes]]) -> None:
    """Store the batches one after the other."""
    for batch, body in pairs:
        store.ingest(batch, body)


def measure(url: str, places: int, batches: int) -> dict[str, float]:
    """Return the CPU time of each part in µs a batch, and the committed points a second."""
    sent = list(bodies(places, batches))
    cpu_us: dict[str, float] = {}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        done = work()
        cpu_us[part] = cpu_us.get(part, 0.0) + (time.process_time() - began) * 1e6 / batches
        return done

    decoded = timed("decode", lambda: list(map(decode, sent)))
    pairs = list(zip(decoded, sent, strict=True))
    timed("prepare", lambda: [prepare(batch, body) for batch, body in pairs])
    store = Store.open(url)
    try:
        half, seconds = len(pairs) // 2, 0.0
        for part, history in ((pairs[:half], "history_rebuild"), (pairs[half:], "history_extend")):
            began = time.perf_counter()
            timed("ingest", partial(store_all, store, part))
            seconds += time.perf_counter() - began
            stored = store.run("run")
            assert stored is not None
            timed(history, partial(store.history, stored.pk))
        compactor = Compactor(store.database)
        timed("seal", lambda: compactor.run_once(everything=True))
    finally:
        store.close()
    points = batches * STEPS * places * len(STATISTICS) * len(STREAMS)
    return {**cpu_us, "committed_points_per_s": points / seconds}


def best(results: list[dict[str, float]]) -> dict[str, float]:
    """Return the highest rate and the lowest time of each part."""
    names = results[0]
    return {
        name: round((max if name.endswith("_per_s") else min)(r[name] for r in results), 1)
        for name in names
    }


def main() -> None:
    """Measure every shape and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES], choices=[*SHAPES])
    arguments = parser.parse_args()
    found = {}
    for shape in arguments.shapes:
        results = []
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as folder:
                url = f"sqlite:///{Path(folder) / 'bench.db'}"
                results.append(measure(url, SHAPES[shape], arguments.batches))
        found[shape] = best(results)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
