"""A collector's database with many runs and one run of 10 million points that goes on.

Goes out: batches of the wire. `fill` stores them in a folder, `Sender` sends the later ones.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from scrape import run
from trainvitals.wire import (
    CONTENT_TYPE,
    STATISTICS,
    Batch,
    Frame,
    Layout,
    Place,
    RunEnd,
    RunStart,
    Stat,
    Stream,
    encode,
)
from trainvitals_server.rounds import Rounds, engine_of
from trainvitals_server.settings import Settings
from trainvitals_server.store import Store
from trainvitals_server.store.seal import Compactor

BIG = "big"
OTHER = "other"
"""A run to compare with: the scalars of as many steps."""
STEPS = 10_000
STEPS_OF_BATCH = 250
STEPS_PER_S = 10
GOING_ON = 20
"""Of the many runs, those that still report."""
SCALARS = (
    "loss",
    "loss/validation",
    "gradient_norm",
    "learning_rate/0",
    "step_time_s",
    "overhead",
    "prediction_min",
    "prediction_mean",
    "prediction_max",
    "log/accuracy",
)
BLOCKS = tuple(f"blocks.{i}" for i in range(50))
PARTS = ("attention", "mlp")
TENSORS = tuple(
    Place(f"{block}.{part}.{kind}", kind, (256, 256) if kind == "weight" else (256,), 2 * i + j,
          f"{block}.{part}", "Linear", "relu")
    for i, block in enumerate(BLOCKS)
    for j, part in enumerate(PARTS)
    for kind in ("weight", "bias")
)  # fmt: skip
MODULES = tuple(
    Place(f"{block}.{part}", "Linear", (), 2 * i + j, f"{block}.{part}", "Linear", "relu")
    for i, block in enumerate(BLOCKS)
    for j, part in enumerate(PARTS)
)
LAYOUTS = (
    Layout(Stream.WEIGHT, 0, (Stat.L2, Stat.MIN, Stat.MAX, Stat.DRIFT_RMS), TENSORS),
    Layout(Stream.GRADIENT, 0, (Stat.L2,), TENSORS),
    Layout(Stream.ACTIVATION, 0, (Stat.SAMPLE_STD, Stat.STD), MODULES),
    Layout(Stream.SCALAR, 0, STATISTICS[Stream.SCALAR], tuple(Place(name) for name in SCALARS)),
)
"""200 tensors with five statistics, and what the pages of Bias, Initialisation and Loss need."""


def big_batch(first: int, count: int, now: float, *, name: str = BIG) -> Batch:
    """Return the steps from `first` on; the step STEPS is at the time `now`, in seconds.

    The first batch has the start and the layouts. Another `name` than BIG has scalars only.
    """
    layouts = LAYOUTS if name == BIG else LAYOUTS[-1:]
    steps = np.arange(first, first + count, dtype=np.int64)
    times = now + (steps - STEPS) / STEPS_PER_S
    noise = np.random.default_rng((first, len(name)))
    records: list[Any] = []
    if first == 0:
        records = [RunStart(now, name=name, host="node", total_steps=1_000_000)]
        records += layouts
    for layout in layouts:
        shape = (count, len(layout.places), len(layout.statistics))
        values = np.exp(0.02 * noise.standard_normal(shape))
        if layout.stream == Stream.SCALAR:
            values[:, :3] *= (1 + 3 * np.exp(-steps / 3000))[:, None, None]
        if Stat.DRIFT_RMS in layout.statistics:
            values[:, :, layout.statistics.index(Stat.DRIFT_RMS)] *= 1e-4 * steps[:, None]
        records.append(Frame(layout.stream, 0, steps, times, values.astype(np.float32)))
    late = max(0, first - STEPS)
    sequence = (first - late) // STEPS_OF_BATCH + late // STEPS_PER_S
    return Batch(name, "bench", name.encode().ljust(16), sequence, now, 0, tuple(records))


def more_of(number: int, sequence: int) -> Batch:
    """Return five steps more of one of the many runs; its first batch has 60."""
    steps = np.arange(60 + 5 * (sequence - 1), 60 + 5 * sequence, dtype=np.int64)
    places = 6  # as in scrape.py
    values = np.exp(np.random.default_rng((number, sequence)).standard_normal((5, places, 1)))
    frame = Frame(Stream.SCALAR, 0, steps, np.full(5, time.time()), values.astype(np.float32))
    return Batch(f"run-{number}", "bench", number.to_bytes(16), sequence, time.time(), 0, (frame,))


def fill(home: Path, runs: int) -> float:
    """Store `runs` runs, BIG and OTHER, diagnose them, and return the time of BIG's last step.

    All runs but the last GOING_ON of the many have ended.
    """
    store = Store.open(Settings(home=home).database)
    try:
        for number in range(runs):
            batch = run(number)
            store.ingest(batch, encode(batch))
            if number < runs - GOING_ON:
                end = Batch(
                    f"run-{number}", "bench", number.to_bytes(16), 1, time.time(), 0,
                    (RunEnd(time.time(), 59, "finished"),),
                )  # fmt: skip
                store.ingest(end, encode(end))
        compactor, now = Compactor(store.database), time.time()
        for name in (OTHER, BIG):
            for first in range(0, STEPS, STEPS_OF_BATCH):
                batch = big_batch(first, STEPS_OF_BATCH, now, name=name)
                store.ingest(batch, encode(batch))
                while compactor.run_once():
                    pass
        Rounds(store, engine_of({})).run_once()
    finally:
        store.close()
    return now


@dataclass
class Sender(threading.Thread):
    """Sends STEPS_PER_S steps a second of BIG, and steps of runs that go on, until `stop` is set.

    OTHER gets no more steps.
    """

    url: str
    token: str
    runs: int
    now: float
    stop: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        try:
            self._send()
        except Exception as error:  # noqa: BLE001 - raised in the main thread by `check`
            self.failure = error

    def check(self) -> None:
        """Raise what ended the thread, if something did."""
        if self.failure is not None:
            raise self.failure

    def _send(self) -> None:
        headers = {"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {self.token}"}
        sequence = 0
        with httpx2.Client(headers=headers, trust_env=False, timeout=30) as http:
            while not self.stop.is_set():
                began = time.monotonic()
                batches = [big_batch(STEPS + sequence * STEPS_PER_S, STEPS_PER_S, self.now)]
                sequence += 1
                if sequence % 5 == 0:
                    first = max(0, self.runs - GOING_ON)
                    batches += [more_of(n, sequence // 5) for n in range(first, self.runs)]
                for batch in batches:
                    http.post(f"{self.url}/api/v1/ingest", content=encode(batch)).raise_for_status()
                self.stop.wait(max(0.0, 1 - (time.monotonic() - began)))
