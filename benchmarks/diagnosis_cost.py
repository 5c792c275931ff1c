"""What the diagnosis costs: the share of a core, the memory of a history, a round of the collector.

A deep narrow network is trained under `watch` with everything in every step, and its records are
kept. They are then replayed:

1. engine: to a `BackgroundDiagnosis`, `--per-second` captured steps a second for `--seconds`: the
   CPU time of its thread, once from step 0 and once with a history that is full;
2. history: to a `History`, `--history-steps` steps, of which every tenth is captured in full: its
   bytes;
3. collector: to a store (SQLite, in a temporary folder), and rounds of the collector on it: the
   first round after a start, and rounds after 1 and after 10 new captured steps.

Shares and milliseconds are CPU time, which other processes disturb less than the wall clock, and
medians where something is repeated. docs/benchmarks.md explains the figures.

    python benchmarks/diagnosis_cost.py                          # about 8 minutes
    python benchmarks/diagnosis_cost.py --parts history --history-steps 10000000
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from diagnosis_recording import Recording, record
from trainvitals.api.schema import Diagnosis, Finding
from trainvitals.background_diagnosis import BackgroundDiagnosis
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.history import ROWS_MAX, History
from trainvitals.wire import Batch, Record, RunStart, Stream, encode
from trainvitals_server.rounds import Rounds
from trainvitals_server.store import Store
from trainvitals_server.store.seal import Compactor
from trainvitals_server.store.series_limits import SeriesLimits

CAPTURED_EVERY = 10
"""In the part "history", one step of so many is captured in full; the others have scalars only."""
SHARE_MAX, ROUND_MS_MAX = 0.01, 50.0
"""The targets: a share of one core, and the CPU time of a round with new steps."""
NEW_STEPS = (1, 10)
LIMITS = SeriesLimits(1_000_000, 1_000_000)
"""1,000 tensors with all statistics are 33,000 series; a run may have 20,000 by default."""
TOP = 10


class TimedEngine(Engine):
    """The engine of the product, with the CPU time of its examinations."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu_s: list[float] = []

    def examine(self, history: History, previous: Sequence[Finding] = ()) -> tuple[Finding, ...]:
        began = time.thread_time()
        found = super().examine(history, previous)
        self.cpu_s.append(time.thread_time() - began)
        return found


def engine_share(run: Recording, *, seconds: float, per_s: float, before: int) -> dict[str, float]:
    """Return what the thread of a diagnosis costs when it gets `per_s` captured steps a second.

    It has `before` captured steps already.
    """
    engine = TimedEngine()
    diagnosis = BackgroundDiagnosis(lambda _: None, engine, show=lambda _: None)
    for first in (*run.head, *run.layouts):
        diagnosis.put(first)
    for step in range(before):
        for frame in run.at(step):
            diagnosis.put(frame)
    diagnosis.diagnosis(run="", watched=(), not_watched={}, overhead=None)  # takes all of them in
    examined, spent, began = len(engine.cpu_s), diagnosis.cpu_s, time.monotonic()
    for n in range(round(seconds * per_s)):
        for frame in run.at(before + n):
            diagnosis.put(frame)
        time.sleep(max(0.0, began + (n + 1) / per_s - time.monotonic()))
    elapsed = time.monotonic() - began
    diagnosis.stop()
    cpu_s, examinations = diagnosis.cpu_s - spent, engine.cpu_s[examined:]
    return {
        "seconds": elapsed,
        "share": cpu_s / elapsed,
        "examinations": len(examinations),
        "examination_ms": 1e3 * statistics.median(examinations or [0.0]),
        "examinations_share": sum(examinations) / elapsed,
    }


def history_of(run: Recording, steps: int) -> History:
    """Return a history of `steps` captured steps."""
    history = History()
    for first in (*run.head, *run.layouts):
        history.add(first)
    for step in range(steps):
        for frame in run.at(step):
            history.add(frame)
    return history


def rule_ms(history: History, repeats: int) -> dict[str, float]:
    """Return the CPU milliseconds of each rule, and of all of them with the engine; medians.

    The rules take turns, so that a disturbance does not fall on one of them.
    """
    engine, spent = Engine(), defaultdict[str, list[float]](list)
    findings = engine.examine(history)
    for _ in range(repeats):
        with np.errstate(all="ignore"):
            for rule in engine.rules_for(history):
                began = time.thread_time()
                for _found in rule.check(history):
                    pass
                spent[f"{rule.code} {rule.name()}"].append(time.thread_time() - began)
        began = time.thread_time()
        findings = engine.examine(history, findings)
        spent["examination"].append(time.thread_time() - began)
        began = time.thread_time()
        diagnose(history, findings)
        spent["verdict"].append(time.thread_time() - began)
    return {name: 1e3 * statistics.median(times) for name, times in spent.items()}


def history_bytes(run: Recording, steps: int) -> list[dict[str, float]]:
    """Return the size of a history at 10⁴, 10⁵, … steps, up to `steps`.

    `rss_mb` is what the resident memory of the process grew by.
    """
    process, history, found = psutil.Process(), history_of(run, 0), []
    before, began = process.memory_info().rss, time.process_time()
    marks = [10**power for power in range(4, 10) if 10**power < steps] + [steps]
    for first in range(0, steps, CAPTURED_EVERY):
        history.add(run.scalars(first, CAPTURED_EVERY))
        for frame in run.at(first + CAPTURED_EVERY - 1):
            if frame.stream is not Stream.SCALAR:
                history.add(frame)
        if first + CAPTURED_EVERY >= marks[0]:
            found.append(
                {
                    "steps": marks.pop(0),
                    "history_mb": history.nbytes / 1e6,
                    "rss_mb": (process.memory_info().rss - before) / 1e6,
                    "cpu_s": time.process_time() - began,
                }
            )
            if not marks:
                break
    return found


class TimedStore:
    """A store whose parts of a round are timed: CPU seconds of the process, by name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.cpu_s: dict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def history(self, run_pk: int) -> History:
        began = time.process_time()
        found = self._store.history(run_pk)
        self.cpu_s["read"] += time.process_time() - began
        return found

    def save_diagnosis(self, run_pk: int, diagnosis: Diagnosis) -> None:
        began = time.process_time()
        self._store.save_diagnosis(run_pk, diagnosis)
        self.cpu_s["save"] += time.process_time() - began


class StoredRun:
    """A run in a collector's store that gets more steps."""

    def __init__(self, run: Recording, url: str) -> None:
        self._run, self._url, self._steps, self._batches = run, url, 0, 0
        self.store = Store.open(url, limits=LIMITS)
        head = [r for r in run.head if not isinstance(r, RunStart)]
        start = next((r for r in run.head if isinstance(r, RunStart)), RunStart(0.0))
        self._send((start, *run.layouts, *head))

    def add(self, steps: int) -> None:
        """Store so many steps more, one in a batch."""
        for step in range(self._steps, self._steps + steps):
            self._send(self._run.at(step))
        self._steps += steps

    def reopen(self) -> None:
        """Open the store again, as after a restart of the collector."""
        self.store.close()
        self.store = Store.open(self._url, limits=LIMITS)

    def seal(self) -> None:
        """Move what fills a segment from the log into chunks."""
        compactor = Compactor(self.store.database)
        while compactor.run_once():
            pass

    def _send(self, records: tuple[Record, ...]) -> None:
        batch = Batch("run", "bench", b"diagnosis-cost..", self._batches, 0.0, 0, records)
        self.store.ingest(batch, encode(batch))
        self._batches += 1


def round_figures(stored: StoredRun, engine: TimedEngine) -> dict[str, float]:
    """Return what one round on `stored` costs, in milliseconds; `wall` is the only wall time.

    Each round is the first of a new `Rounds`: a used one waits until the run has had its share.
    """
    store = TimedStore(stored.store)
    rounds = Rounds(store, engine, lost_after_s=1e9)
    examined = len(engine.cpu_s)
    began, spent = time.perf_counter(), time.process_time()
    if rounds.run_once() != 1 or rounds.stats().errors:
        raise RuntimeError("The round did not diagnose the run.")
    cpu_s, wall_s = time.process_time() - spent, time.perf_counter() - began
    parts = {**store.cpu_s, "examine": sum(engine.cpu_s[examined:])}
    figures = {"wall": wall_s, "cpu": cpu_s, **parts, "other": cpu_s - sum(parts.values())}
    return {name: 1e3 * seconds for name, seconds in figures.items()}


def rounds_ms(run: Recording, *, steps: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return the median cost of each kind of round on a run with `steps` captured steps."""
    found = defaultdict[str, list[dict[str, float]]](list)
    with tempfile.TemporaryDirectory() as folder:
        stored = StoredRun(run, f"sqlite:///{Path(folder) / 'trainvitals.db'}")
        stored.add(steps)
        stored.seal()
        engine = TimedEngine()
        # A collector does not import torch: its garbage collections do not visit torch's objects.
        gc.collect()
        gc.freeze()
        for _ in range(repeats):
            stored.reopen()
            stored.add(1)
            found["first round after a start"].append(round_figures(stored, engine))
            for new in NEW_STEPS:
                stored.add(new)
                found[f"round after {new} new"].append(round_figures(stored, engine))
        stored.store.close()
    return {
        kind: {name: statistics.median(x[name] for x in rounds) for name in rounds[0]}
        for kind, rounds in found.items()
    }


def lines(figures: dict[str, Any]) -> Iterable[str]:
    """Yield the rows of the table: what was measured, the figures, and the target."""
    for name, engine in figures.get("engine", {}).items():
        yield row(
            f"engine, {name}",
            f"{engine['share']:.2%} of a core, of it {engine['examinations_share']:.2%} in "
            f"{engine['examinations']} examinations of {engine['examination_ms']:.0f} ms",
            held(engine["share"], SHARE_MAX, "{:.0%}"),
        )
    rules = dict(figures.get("rules_ms", {}))
    for name in ("examination", "verdict"):
        if name in rules:
            yield row(f"one {name}", f"{rules.pop(name):.1f} ms")
    for name in sorted(rules, key=lambda n: -rules[n])[:TOP]:
        yield row(f"of it {name}", f"{rules[name]:.2f} ms")
    before = None
    for size in figures.get("history", []):
        yield row(
            f"history after {size['steps']:,} steps",
            f"{size['history_mb']:.1f} MB, resident {size['rss_mb']:+.1f} MB, "
            f"{1e6 * size['cpu_s'] / size['steps']:.0f} µs a step",
            "" if before is None else held(size["history_mb"], before, "{:.1f} MB"),
        )
        before = size["history_mb"]
    for name, ms in figures.get("collector", {}).items():
        parts = ", ".join(f"{part} {ms[part]:.1f}" for part in ("read", "examine", "save", "other"))
        yield row(
            f"collector, {name}",
            f"{ms['cpu']:.1f} ms ({parts}), wall {ms['wall']:.1f} ms",
            held(ms["cpu"], ROUND_MS_MAX, "{:.0f} ms") if " new" in name else "",
        )


def row(*cells: str) -> str:
    """Return a row of a Markdown table with three columns."""
    return "| " + " | ".join([*cells, ""][:3]) + " |"


def held(value: float, most: float, form: str) -> str:
    """Return the target, and whether it is held."""
    return f"at most {form.format(most)}: {'held' if value <= most else 'missed'}"


def main() -> None:
    """Measure, and print tables."""
    args = arguments()
    torch.set_num_threads(1)
    os.environ["TRAINVITALS_REPORT"] = "off"
    figures: dict[str, Any] = {}
    logging.getLogger("trainvitals").setLevel(logging.ERROR)  # findings are not the subject here
    print("| what | CPU time or size | target |\n|---|---|---|", flush=True)
    parts = {"engine": engine_part, "history": history_part, "collector": collector_part}
    for part, measure in parts.items():
        if part in args.parts:
            figures |= (new := measure(args))
            print("\n".join(lines(new)), flush=True)
    if args.json:
        args.json.write_text(f"{json.dumps(figures, indent=1)}\n")


def engine_part(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of part 1."""
    run = record(args.tensors, args.recorded_steps)
    found = {}
    for name, before in (("from step 0", 0), ("with a full history", ROWS_MAX)):
        share = engine_share(run, seconds=args.seconds, per_s=args.per_second, before=before)
        found[f"{args.tensors} tensors, {args.per_second:g} captured steps/s, {name}"] = share
    return {"engine": found, "rules_ms": rule_ms(history_of(run, ROWS_MAX), args.repeats)}


def history_part(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of part 2."""
    run = record(args.tensors, min(args.recorded_steps, 100))
    return {"history": history_bytes(run, args.history_steps)}


def collector_part(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of part 3."""
    run = record(args.collector_tensors, args.recorded_steps)
    rounds = rounds_ms(run, steps=args.stored_steps, repeats=args.repeats)
    return {
        "collector": {
            f"{args.collector_tensors:,} tensors, {kind}": ms for kind, ms in rounds.items()
        }
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    parts = ["engine", "history", "collector"]
    add("--parts", nargs="+", choices=parts, default=parts)
    add("--tensors", type=int, default=500, help="of the engine and the history")
    add("--collector-tensors", type=int, default=1000)
    add("--recorded-steps", type=int, default=300, help="trained, and then repeated")
    add("--seconds", type=float, default=60, help="of each measurement of the engine")
    add("--per-second", type=float, default=10, help="captured steps a second")
    add("--history-steps", type=int, default=1_000_000)
    add("--stored-steps", type=int, default=600, help="captured steps of the stored run")
    add("--repeats", type=int, default=9, help="of each rule, and of each kind of round")
    add("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if min(args.tensors, args.collector_tensors) < 6 or args.recorded_steps < 30:
        parser.error("at least 6 tensors and 30 recorded steps are needed")
    if min(args.seconds, args.per_second, args.repeats) <= 0 or args.history_steps < 20:
        parser.error(
            "--seconds, --per-second, --repeats must be above 0; --history-steps at least 20"
        )
    return args


if __name__ == "__main__":
    main()
