"""Time of a scrape of /metrics with many running runs, on a real SQLite store.

python benchmarks/scrape.py --runs 200

Every run has a loss, gradient norm, learning rate, layers and findings. A scrape is timed from the
read of the store to the response's body; no two scrapes share a snapshot.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from trainvitals.wire import STATISTICS, Batch, Frame, Layout, Place, RunStart, Stream, encode
from trainvitals_server.publish.counters import IngestCounters
from trainvitals_server.publish.exposition import Publisher
from trainvitals_server.rounds import Rounds, engine_of
from trainvitals_server.store import Store

SCALARS = ("loss", "nonfinite_loss", "gradient_norm", "learning_rate/0", "step_time_s", "overhead")


def run(number: int) -> Batch:
    """Return the records of one run that diverges, so that it has findings."""
    steps = np.arange(60, dtype=np.int64)
    values = np.full((60, len(SCALARS), 1), 0.5, np.float32)
    values[40:, 0] = np.nan
    values[:, 1, 0] = np.arange(60) >= 40
    places = tuple(Place(name) for name in SCALARS)
    records = (
        RunStart(time.time(), name=f"run-{number}", host="node", total_steps=500),
        Layout(Stream.SCALAR, 0, STATISTICS[Stream.SCALAR], places),
        Frame(Stream.SCALAR, 0, steps, time.time() - 0.01 * steps[::-1], values),
    )
    return Batch(f"run-{number}", "bench", number.to_bytes(16), 0, time.time(), 0, records)


def scrape_seconds(runs: int, scrapes: int = 20) -> tuple[float, int]:
    """Return the median seconds of a scrape of `runs` runs, and its number of series."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{Path(folder) / 'bench.db'}")
        try:
            for number in range(runs):
                batch = run(number)
                store.ingest(batch, encode(batch))
            rounds = Rounds(store, engine_of({}))
            rounds.run_once()
            clock = [time.time()]
            publisher = Publisher(store, rounds, IngestCounters(), now=lambda: clock[0])
            seconds, body = [], b""
            for _ in range(scrapes):
                clock[0] += 1.5
                began = time.perf_counter()
                body, _ = publisher.expose(None)
                seconds.append(time.perf_counter() - began)
        finally:
            store.close()
    series = sum(not line.startswith(b"#") for line in body.splitlines())
    return statistics.median(seconds), series


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    seconds, series = scrape_seconds(runs)
    print(f"{runs} runs, {series} series: {seconds * 1e3:.1f} ms a scrape")


if __name__ == "__main__":
    main()
