"""Run one program under `trainvitals.watch` and record its diagnosis.

Comes in: a `Case`, a seed and, for a second training, the code of a fix.
Goes out: an `Outcome`, which is plain data.
Promise:  the diagnosis is that of the public API, which has no access to the case.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import trainvitals
from detection.case import Case, Places
from detection.others import flagged
from detection.program import Program
from detection.repair import UNCHANGED, Repair

CHECKED_AT_FIRST = (0, 1, 2, 3, 4, 9, 14, 19, 29, 39)
CHECK_EVERY = 20
"""Steps after the start, or after the onset, at which the diagnosis is computed; then every
20th."""


@dataclass(frozen=True)
class Shown:
    """The part of a finding that a user sees."""

    rule: str
    where: str
    since_step: int
    severity: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run. `roots` are its open alarms that no other finding explains."""

    case: str
    seed: int
    repaired: bool
    metric: float
    """Lower is better; infinite when the model's output is not finite."""
    verdict: str
    headline: Shown | None
    roots: tuple[Shown, ...]
    alarms: tuple[Shown, ...]
    """Every alarm seen at any check, also those that were resolved later."""
    first_alert_step: int | None
    """The first check with an alarm, counted from 0."""
    wall_s: float
    places: Places = ()
    error: str = ""
    not_watched: dict[str, str] = field(default_factory=dict)
    fix: str = ""
    """The fix that the headline offers."""
    others: tuple[str, ...] = ()
    """The rules of other tools that fire at any step: "tool: rule"; see others.py."""
    second: Outcome | None = None
    """The same program trained again with the headline's fix; None if not done."""


def run(
    case: Case, seed: int, *, repaired: bool = False, every: int | None = None, fix: str = ""
) -> Outcome:
    """Train the case's program, or its repaired twin, and return the outcome.

    `fix` is code of a finding, which is applied to the program; see repair.py. An exception that
    it raises is the `error` of the outcome, whose metric is then infinite.
    """
    with _quiet():
        try:
            repair = Repair(fix) if fix else UNCHANGED
            return _run(case, seed, repair, repaired=repaired, every=every)
        except Exception as raised:
            if not fix:
                raise
            return failed(case, seed, f"{type(raised).__name__}: {raised}")


def with_second(case: Case, seed: int, every: int | None = None) -> Outcome:
    """Train the faulty program; if the headline is acceptable, train again with its fix."""
    first = run(case, seed, every=every)
    if first.headline is None or first.headline.rule not in case.causes or not first.fix:
        return first
    return replace(first, second=run(case, seed, every=every, fix=first.fix))


def failed(case: Case, seed: int, error: str) -> Outcome:
    """Return the outcome of a program that could not be started."""
    return Outcome(case.name, seed, False, math.inf, "", None, (), (), None, 0.0, error=error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Switch off the reports and the log messages of the runs; the findings are recorded."""
    log = logging.getLogger("trainvitals")
    level, report = log.level, os.environ.get("TRAINVITALS_REPORT")
    log.setLevel(logging.CRITICAL)
    os.environ["TRAINVITALS_REPORT"] = "off"
    try:
        yield
    finally:
        log.setLevel(level)
        if report is None:
            del os.environ["TRAINVITALS_REPORT"]
        else:
            os.environ["TRAINVITALS_REPORT"] = report


def _run(case: Case, seed: int, repair: Repair, *, repaired: bool, every: int | None) -> Outcome:
    started = time.perf_counter()
    program, places = case.build(seed, repaired=repaired)
    error, alarms, first_alert_step = "", dict[tuple[str, str], Shown](), None
    monitor, steps = _start(program, repair, case.name, every)
    try:
        for step in steps:
            if is_checked(step, case.fault.onset if case.fault else 0):
                for finding in monitor.diagnosis().alarms:
                    alarms.setdefault((finding.rule, finding.where), _shown(finding))
                if alarms and first_alert_step is None:
                    first_alert_step = step
    except Exception as raised:  # noqa: BLE001 - a program may fail: that is an outcome
        error = f"{type(raised).__name__}: {raised}"
    monitor.close()
    end = monitor.diagnosis()
    for finding in end.alarms:
        alarms.setdefault((finding.rule, finding.where), _shown(finding))
    if alarms and first_alert_step is None:
        first_alert_step = end.step
    return Outcome(
        case.name,
        seed,
        repaired,
        _metric(program, repair),
        str(end.verdict),
        _shown(end.headline) if end.headline else None,
        tuple(_shown(f) for f in end.alarms if not f.explained_by),
        tuple(alarms.values()),
        first_alert_step,
        round(time.perf_counter() - started, 2),
        places,
        error,
        dict(end.not_watched),
        end.headline.fix if end.headline else "",
        flagged(monitor._diagnosis.history),
    )


def is_checked(step: int, onset: int) -> bool:
    """Return whether the diagnosis is computed after `step`; a diagnosis costs about 10 ms."""
    return (step + 1) % CHECK_EVERY == 0 or bool({step, step - onset} & {*CHECKED_AT_FIRST})


def _start(
    program: Program, repair: Repair, name: str, every: int | None
) -> tuple[trainvitals.Monitor, Any]:
    optimizer = program.optimizer(program.parameters(program.model), program.lr)
    for started in program.started:
        started(program, optimizer)
    optimizer = repair.before_training(program, optimizer)
    monitor = trainvitals.watch(
        program.model,
        optimizer,
        loss=program.loss,
        collector="off",
        run=name.replace("@", "-"),
        total_steps=program.steps,
        loss_falls=program.loss_falls,
        every=every,
    )
    return monitor, _steps(program, optimizer, monitor, repair)


def _steps(
    program: Program,
    optimizer: torch.optim.Optimizer,
    monitor: trainvitals.Monitor,
    repair: Repair,
) -> Any:
    """Train, and yield the number of each finished step."""
    order = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
    schedule = program.schedule(optimizer, program.steps) if program.schedule else None
    model, data = program.model.train(program.train_mode), program.data

    def backward() -> Any:
        if program.zero_grad:
            optimizer.zero_grad()
        repair.start_of_step()
        for _ in range(program.accumulate):
            chosen = program.sample(program, step, order)
            x, y = program.collate(step, data.x[chosen], data.y[chosen])
            x, y = repair.training_batch(x, y)
            output = program.forward(model, x)
            pair = {} if repair.replaces_loss else {"prediction": output, "target": y}
            loss = monitor.loss(repair.loss(program.loss, output, y), **pair)
            if repair.updates:
                repair.update(loss)
                return loss
            if program.step_first:
                optimizer.step()
            if loss.requires_grad:
                (loss / program.accumulate).backward()
        repair.after_backward()
        if program.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), program.clip_norm)
        return loss

    for step in range(program.steps):
        if program.step:
            program.step(program, optimizer, monitor, step)
        elif program.closure:
            optimizer.step(backward)
        else:
            backward()
            if not (program.step_first or repair.updates):
                optimizer.step()
        if schedule:
            schedule.step()
        if program.validate_every and (step + 1) % program.validate_every == 0:
            model.eval()
            with torch.no_grad():
                x, y = repair.batch(data.x_test, data.y_test)
                value = repair.loss(program.loss, program.forward(model, x), y)
            monitor.loss(value, split="validation")
            model.train(program.train_mode)
        for event in program.events:
            event(step, program, optimizer)
        yield step


def _metric(program: Program, repair: Repair) -> float:
    """Return the metric on the test samples, in evaluation mode; infinite if they raise."""
    program.model.eval()
    try:
        with torch.no_grad():
            x, y = repair.batch(program.data.x_test, program.data.y_test)
            value = float(program.metric(program.forward(program.model, x), y))
    except (
        IndexError,
        RuntimeError,
        ValueError,
    ):  # as in the training: inputs that the fault broke
        return math.inf
    return value if math.isfinite(value) else math.inf


def _shown(finding: trainvitals.Finding) -> Shown:
    return Shown(finding.rule, finding.where, finding.since_step, str(finding.severity))
