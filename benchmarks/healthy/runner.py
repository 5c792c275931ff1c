"""Run a program under `watch` with its default options, and record every alarm.

Comes in: the name of a program and the index of its setting.
Goes out: an `Outcome`. `run` trains in this process; `run_all` starts a process for each run, with
          no setting of trainvitals from outside.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

import trainvitals
from healthy import programs
from healthy.program import Program, name_of
from trainvitals.api.schema import Diagnosis

CHECKED_AT_FIRST = frozenset({0, 1, 2, 3, 4, 9, 14, 29, *range(19, 200, 20)})
CHECK_EVERY = 50
"""The diagnosis is asked after these steps, after every 50th step, and at the end."""


@dataclass(frozen=True)
class Alarm:
    """A finding that was an open warning or error at one of the checks."""

    rule: str
    code: str
    severity: str
    where: str
    step: int
    """The step after which it was seen first."""
    summary: str
    open_at_end: bool


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run."""

    program: str
    setting: str
    metric: float
    """NaN if the program failed."""
    learned: bool
    verdict: str
    steps: int
    seconds: float
    alarms: tuple[Alarm, ...]
    error: str = ""

    @property
    def is_flagged(self) -> bool:
        return bool(self.alarms)

    @property
    def is_flagged_at_end(self) -> bool:
        return any(alarm.open_at_end for alarm in self.alarms)


class Observed:
    """`trainvitals.watch` without options; asks for the diagnosis during the training."""

    def __init__(self) -> None:
        self.monitor: trainvitals.Monitor | None = None
        self._step = -1
        self._seen: dict[tuple[str, str], Alarm] = {}

    def __call__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: Optimizer | Sequence[Optimizer],
    ) -> trainvitals.Monitor:
        self.monitor = trainvitals.watch(model, optimizer)
        first = optimizer if isinstance(optimizer, Optimizer) else optimizer[0]
        first.register_step_post_hook(self._after_step)
        return self.monitor

    def finish(self) -> tuple[Diagnosis, tuple[Alarm, ...]]:
        """Close the monitor; return its last diagnosis and all alarms in the order of the steps."""
        if self.monitor is None:
            raise RuntimeError("The program did not call watch.")
        self.monitor.close()
        last = self.monitor.diagnosis()
        self._note(last)
        opened = {(finding.rule, finding.where) for finding in last.alarms}
        return last, tuple(
            Alarm(**{**asdict(alarm), "open_at_end": place in opened})
            for place, alarm in self._seen.items()
        )

    def _after_step(self, *_: object) -> None:
        self._step += 1
        if self._step in CHECKED_AT_FIRST or (self._step + 1) % CHECK_EVERY == 0:
            self._note(self.monitor.diagnosis())

    def _note(self, diagnosis: Diagnosis) -> None:
        for f in diagnosis.alarms:
            alarm = Alarm(f.rule, f.code, str(f.severity), f.where, self._step, f.summary, False)
            self._seen.setdefault((f.rule, f.where), alarm)


def names() -> list[str]:
    """Return the names of all programs."""
    return sorted(module.name for module in pkgutil.iter_modules(programs.__path__))


def load(name: str) -> Program:
    """Return the program of a module."""
    return importlib.import_module(f"healthy.programs.{name}").PROGRAM


def run(name: str, index: int) -> Outcome:
    """Train one program with one of its settings, in this process."""
    program, watch, started = load(name), Observed(), time.perf_counter()
    metric = program.train(watch, **program.settings[index])
    last, alarms = watch.finish()
    return Outcome(
        program=name,
        setting=name_of(program.settings[index]),
        metric=metric,
        learned=program.has_learned(metric),
        verdict=str(last.verdict),
        steps=last.step + 1,
        seconds=round(time.perf_counter() - started, 2),
        alarms=alarms,
    )


def run_all(
    runs: Iterable[tuple[str, int]],
    *,
    jobs: int = 1,
    until: Callable[[], bool] = lambda: False,
    progress: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Train each (program, index of its setting) in a process of its own, `jobs` at a time.

    No run is started any more when `until` holds; the outcomes are those of the runs before.
    """
    outcomes = []

    def start(name: str, index: int) -> Outcome | None:
        return None if until() else _run_apart(name, index)

    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(start, *each) for each in runs]):
            outcome = done.result()
            if outcome is not None:
                outcomes.append(outcome)
                progress(outcome)
    return sorted(outcomes, key=lambda outcome: (outcome.program, outcome.setting))


def _run_apart(name: str, index: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcome.json"
        ended = subprocess.run(
            [sys.executable, "-m", "healthy.worker", name, str(index), str(file)],
            cwd=folder,
            env=dict(_environment(folder)),
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            error = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            return Outcome(name, f"setting {index}", math.nan, False, "", 0, 0.0, (), error[-1])
        return outcome_of(json.loads(file.read_text()))


def outcome_of(fields: dict[str, object]) -> Outcome:
    """Return the outcome that `asdict` made a mapping."""
    return Outcome(**{**fields, "alarms": tuple(Alarm(**alarm) for alarm in fields["alarms"])})


def _environment(home: str) -> Iterator[tuple[str, str]]:
    yield from ((k, v) for k, v in os.environ.items() if not k.startswith("TRAINVITALS_"))
    yield "TRAINVITALS_HOME", home
    yield "TRAINVITALS_REPORT", "off"
    yield "OMP_NUM_THREADS", "1"
    yield "PYTHONPATH", os.pathsep.join(filter(None, sys.path))
