"""The costs of the collector: CPU and bytes for a stored value, time to read.

    python benchmarks/store.py [--database sqlite postgres] [--rounds 3] [--steps 1000000]

Part 1 starts a collector, trains a network of 202 tensors under `watch` and keeps its statistics.
Senders then replay them over HTTP, each as a run of its own, in batches of at most 50,000 values,
with the client that the trainer uses. The CPU time is that of all processes of the collector (with
Postgres: and of its server) from the first batch until all is sealed. The acknowledgement times are
those of the senders, which share the machine with the collector and send the next batch at once,
while the collector seals; commits are synced to the disk. With several databases and rounds, the
databases take turns in each round. The collector diagnoses the runs only with `--diagnose`: a round
takes at most a tenth of a core for each run, whatever it receives.

Part 2 is benchmarks/store_reads.py: it reads a run of `--steps` steps over HTTP.

Prints one JSON object. Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psycopg
import sqlalchemy as sa
import torch

import trainvitals
from store_reads import long_run, reads, wide_run
from trainvitals.ship.http import Acknowledged, Away, Link, parse_url
from trainvitals.wire import Batch, Frame, Layout, RunEnd, RunStart, Stream, encode
from trainvitals_server.store import Store
from trainvitals_server.store.models import Track

VALUES_MAX = 50_000
RECORDED_STEPS = 512


@dataclass(frozen=True)
class Recorded:
    """One stream of the recorded run; `values` is (steps, places, statistics), float32."""

    layout: Layout
    values: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Collector:
    """A collector in a process of its own."""

    url: str
    token: str
    pid: int
    home: Path


@contextlib.contextmanager
def collector(
    home: Path, database_url: str | None, *, diagnose: bool = True
) -> Iterator[Collector]:
    """Yield a running collector with its data in `home`."""
    environment = {**os.environ, "TRAINVITALS_HOME": str(home), "OMP_NUM_THREADS": "1"}
    if database_url is not None:
        environment["TRAINVITALS_DATABASE_URL"] = database_url
    environment["TRAINVITALS_TOKEN_FILE"] = str(home / "token")
    if not diagnose:
        environment["TRAINVITALS_ROUND_INTERVAL_S"] = "1000000"
    command = [sys.executable, "-m", "trainvitals.cli", "serve", "--port", "0"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        token = home / "token"
        while "http://" not in (text := (home / "log").read_text()) or not token.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The collector does not start: {text}")
            time.sleep(0.1)
        url = next(word for word in text.split() if word.startswith("http://"))
        yield Collector(url, token.read_text().strip(), process.pid, home)
    finally:
        process.terminate()
        process.wait(60)


class Residual(torch.nn.Module):
    """50 residual blocks with 4 tensors each, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.LayerNorm(32), torch.nn.Linear(32, 32), torch.nn.ReLU())
            for _ in range(50)
        )
        self.head = torch.nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, 10)."""
        for block in self.blocks:
            x = x + block(x)
        logits: torch.Tensor = self.head(x)
        return logits


def record(at: Collector, store: Store) -> list[Recorded]:
    """Train a small network under `watch`; return the values that the collector stored."""
    torch.manual_seed(0)
    model = Residual()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loss = torch.nn.CrossEntropyLoss()
    inputs, labels = torch.randn(2048, 32), torch.randint(10, (2048,))
    inputs[torch.arange(2048), labels] += 2.0
    os.environ["TRAINVITALS_TOKEN_FILE"] = str(at.home / "token")
    monitor = trainvitals.watch(
        model, optimizer, loss=loss, run="recorded", every=1, overhead=1.0, collector=at.url
    )
    for _ in range(RECORDED_STEPS):
        batch = torch.randint(2048, (64,))
        value = loss(model(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    monitor.close()
    stored = store.run("recorded")
    if stored is None:
        raise RuntimeError("The recorded run did not arrive.")
    return [
        read(store, stored.pk, layout)
        for layout in store.layouts(stored.pk)
        if layout.stream is not Stream.SCALAR
    ]


def read(store: Store, run_pk: int, layout: Layout) -> Recorded:
    """Return all stored rows of a stream that have the newest layout."""
    frames: list[Frame] = []
    at = 0
    while (found := store.frames(run_pk, layout.stream, at)) is not None:
        at = int(found[1].steps[-1]) + 1
        if found[0] == layout:
            frames.append(found[1])
    values = np.concatenate([frame.values for frame in frames])
    return Recorded(msgspec.structs.replace(layout, version=0), values)


def batches(run: str, recorded: Sequence[Recorded], count: int) -> tuple[list[bytes], int]:
    """Return the bodies that a trainer sends for `run`, and the number of values in them."""
    each = sum(part.values[0].size for part in recorded)
    rows = max(1, VALUES_MAX // each)
    length = min(len(part.values) for part in recorded)
    source = run.encode().ljust(16, b".")[:16]
    bodies = []
    for seq in range(count):
        steps = np.arange(seq * rows, (seq + 1) * rows)
        frames = [
            Frame(part.layout.stream, 0, steps, 0.1 * steps, part.values[steps % length])
            for part in recorded
        ]
        head = [RunStart(0.0), *(part.layout for part in recorded)] if seq == 0 else []
        bodies.append(encode(Batch(run, "bench", source, seq, 0.0, 0, (*head, *frames))))
    end = RunEnd(time=1.0, step=rows * count, state="finished")
    bodies.append(encode(Batch(run, "bench", source, count, 0.0, 0, (end,))))
    return bodies, rows * count * each


def send(at: Collector, source: bytes, bodies: Sequence[bytes], times: list[float]) -> None:
    """Send bodies one after the other; append the seconds that each took to `times`."""
    address = parse_url(at.url)
    with Link() as link:
        for seq, body in enumerate(bodies):
            while True:
                began = time.perf_counter()
                outcome = link.post(address, at.token, body, source=source, seq=seq, deadline_s=30)
                if isinstance(outcome, Acknowledged):
                    times.append(time.perf_counter() - began)
                    break
                if not isinstance(outcome, Away):
                    raise RuntimeError(f"The collector refuses batch {seq}: {outcome}")
                time.sleep(0.05)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time of processes and of their children, ended or not."""
    ticks = 0
    parents = set(pids)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(entry.name) in parents:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) in parents:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ingested:
    """One replay."""

    values: int
    rates: dict[str, float]
    times: list[float]
    """Seconds from a request to its acknowledgement."""
    sealed: int
    """Segments that were sealed before the last acknowledgement."""


def ingest(
    at: Collector, store: Store, recorded: Sequence[Recorded], arguments: Any, pids: Sequence[int]
) -> Ingested:
    """Replay the recorded statistics with all senders; return the figures."""
    runs = [f"replay-{i}" for i in range(arguments.senders)]
    made = [batches(run, recorded, arguments.batches) for run in runs]
    times: list[float] = []
    threads = [
        threading.Thread(
            target=send, args=(at, run.encode().ljust(16, b".")[:16], bodies, times), daemon=True
        )
        for run, (bodies, _) in zip(runs, made, strict=True)
    ]
    sealed, before, began = segments(store), cpu_seconds(pids), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    committed_s, committed_cpu = time.perf_counter() - began, cpu_seconds(pids) - before
    sealed = segments(store) - sealed
    wait_until_sealed(store)
    sealed_cpu = cpu_seconds(pids) - before
    values = sum(count for _, count in made)
    rates = {
        "committed_values_per_s_wall": values / committed_s,
        "committed_values_per_cpu_s": values / committed_cpu,
        "committed_and_sealed_values_per_cpu_s": values / sealed_cpu,
    }
    return Ingested(values, rates, times, sealed)


def acknowledgement(rounds: Sequence[Ingested]) -> dict[str, float]:
    """Return the figures of all requests of some replays."""
    times = [seconds for each in rounds for seconds in each.times]
    return {
        "requests": len(times),
        "median_ms": float(np.median(times)) * 1e3,
        "p99_ms": float(np.percentile(times, 99)) * 1e3,
        "segments_sealed_meanwhile": sum(each.sealed for each in rounds),
    }


def segments(store: Store) -> int:
    """Return the number of sealed segments."""
    with store.database.read() as connection:
        return int(connection.scalar(sa.select(sa.func.sum(Track.segments))) or 0)


def wait_until_sealed(store: Store) -> None:
    """Return when no row is left in the log."""
    rows = sa.select(sa.func.coalesce(sa.func.sum(Track.log_rows), 0))
    while True:
        with store.database.read() as connection:
            if not connection.scalar(rows):
                return
        time.sleep(0.2)


def stored_bytes(url: str, path: Path) -> int:
    """Return the bytes that the database occupies, without free pages."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            pragma = {
                name: connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            }
        return int((pragma["page_count"] - pragma["freelist_count"]) * pragma["page_size"])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM FULL")
        found = connection.execute("SELECT pg_total_relation_size('chunk')").fetchone()
    return int(found[0]) if found else 0


@contextlib.contextmanager
def database(kind: str) -> Iterator[tuple[str | None, list[int]]]:
    """Yield (URL or None, process ids of the database server)."""
    if kind == "sqlite":
        yield None, []
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from helpers.postgres import running_postgres

    with running_postgres(synced=True) as postgres, postgres.database() as url:
        pid = int((postgres.directory / "data" / "postmaster.pid").read_text().split()[0])
        yield url, [pid]


def replay(kind: str, recorded: list[Recorded], arguments: Any) -> tuple[Ingested, float]:
    """Return the figures of one replay into a new database, and the bytes it keeps for a value.

    An empty `recorded` is filled first.
    """
    with database(kind) as (url, pids), tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        path = home / "trainvitals.db"
        with collector(home, url, diagnose=arguments.diagnose) as at:
            store = Store.open(url or f"sqlite:///{path}")
            if not recorded:
                recorded += record(at, store)
            wait_until_sealed(store)
            empty = stored_bytes(url or "sqlite", path)
            made = ingest(at, store, recorded, arguments, [at.pid, *pids])
            store.close()
        kept = stored_bytes(url or "sqlite", path) - empty
    return made, kept / made.values


def read_back(kind: str, steps: int) -> Any:
    """Return the times to read a run of `steps` steps."""
    with database(kind) as (url, _), tempfile.TemporaryDirectory() as folder:
        store = Store.open(url or f"sqlite:///{Path(folder) / 'trainvitals.db'}")
        long_run(store, steps)
        wide_run(store)
        store.close()
        with collector(Path(folder), url) as at:
            return reads(at, steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    kinds = ["sqlite", "postgres"]
    parser.add_argument("--database", nargs="+", choices=kinds, default=["sqlite"])
    parser.add_argument("--rounds", type=int, default=1, help="of the replay, for each database")
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--batches", type=int, default=150, help="batches of each sender")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the run that is read")
    parser.add_argument("--diagnose", action="store_true", help="with rounds of diagnosis")
    arguments = parser.parse_args()
    recorded: list[Recorded] = []
    made: dict[str, list[tuple[Ingested, float]]] = {kind: [] for kind in arguments.database}
    for _ in range(arguments.rounds):
        for kind, results in made.items():
            results.append(replay(kind, recorded, arguments))
    figures: dict[str, Any] = {}
    for kind, results in made.items():
        rounds = [each for each, _ in results]
        figures[kind] = {
            "values_of_a_round": rounds[0].values,
            "rounds": [each.rates for each in rounds],
            "acknowledgement": acknowledgement(rounds),
            "bytes_per_value": float(np.mean([kept for _, kept in results])),
        }
        if arguments.steps:
            figures[kind]["reads"] = read_back(kind, arguments.steps)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
