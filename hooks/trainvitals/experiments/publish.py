"""Send the result of an experiment to a collector, as a run with the tag `experiment`.

Comes in: a `Result`, the name of the experiment. Goes out: the id of the run.
The structs are those of `trainvitals.api.experiment`; start at `send`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import msgspec

from trainvitals.api.experiment import (
    TAG,
    Experiment,
    ExperimentCurve,
    ExperimentRow,
    ExperimentSignal,
)
from trainvitals.arguments import new_or_shared_id
from trainvitals.config import load
from trainvitals.experiments.result import HEADER, Result, cells
from trainvitals.experiments.trial import Outcome
from trainvitals.identity import run_start
from trainvitals.ship import Shipper
from trainvitals.wire import RunEnd

DELIVERY_S = 5.0


def send(result: Result, name: str, *, collector: str | None, project: str | None) -> str:
    """Send the result and return the id of its run; see `Result.send`."""
    if not name.strip():
        raise ValueError("name is empty; expected the name of the experiment.")
    settings = load(project=project)
    url = collector or settings.collector
    if not url or url == "off":
        raise ValueError(
            "There is no collector: give collector= its URL, or set TRAINVITALS_COLLECTOR."
        )
    run = new_or_shared_id()
    shipper = Shipper(
        url=url,
        token=settings.read_token,
        run=run,
        project=settings.project,
        spool_dir=settings.spool_dir,
    )
    config = {TAG: msgspec.to_builtins(experiment_of(result))}
    shipper.put(
        run_start(name=name, config=config, tags=(TAG,), total_steps=result.steps, facts={})
    )
    shipper.put(RunEnd(time.time(), 0, "finished", produced=2))
    shipper.close(DELIVERY_S)
    return run


def experiment_of(result: Result) -> Experiment:
    """Return the part of a result that a collector stores."""
    groups = {
        row.choice: [o for o in result.outcomes if o.choice == row.choice] for row in result.rows
    }
    return Experiment(
        metric=result.metric,
        higher_is_better=result.higher_is_better,
        steps=result.steps,
        seeds=len(result.seeds),
        best=result.best,
        tied=result.tied,
        reason=result.reason,
        notes=result.notes,
        header=HEADER,
        rows=tuple(
            ExperimentRow(choice=row.choice, cells=tuple(cells(row)), learned=row.learned)
            for row in result.rows
        ),
        curves=tuple(_curve(choice, found) for choice, found in groups.items()),
        signals=tuple(_signal(choice, found) for choice, found in groups.items()),
    )


def _curve(choice: str, found: Iterable[Outcome]) -> ExperimentCurve:
    values: dict[int, list[float]] = {}
    for outcome in found:
        for step, value in outcome.curve:
            kept = values.setdefault(step, [])
            if value is not None:
                kept.append(value)
    steps = sorted(values)
    known = [values[step] for step in steps]
    return ExperimentCurve(
        choice=choice,
        steps=tuple(steps),
        low=tuple(min(v, default=None) for v in known),
        mean=tuple(math.fsum(v) / len(v) if v else None for v in known),
        high=tuple(max(v, default=None) for v in known),
        seeds=tuple(map(len, known)),
    )


def _signal(choice: str, found: Iterable[Outcome]) -> ExperimentSignal:
    values: dict[str, list[float | None]] = {}
    for outcome in found:
        for layer, signal in outcome.signal:
            values.setdefault(layer, []).append(signal)
    return ExperimentSignal(
        choice=choice, layers=tuple(values), S=tuple(map(_geometric_mean, values.values()))
    )


def _geometric_mean(values: list[float | None]) -> float | None:
    """Return the geometric mean; None if a value is missing, 0 if one is 0."""
    known = [v for v in values if v is not None]
    if not known or len(known) < len(values):
        return None
    if min(known) <= 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, known)) / len(known))
