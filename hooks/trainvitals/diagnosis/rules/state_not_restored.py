"""TV608: a training continues, and its optimizer has lost its state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import middle
from trainvitals.wire import Event, EventKind, Scalar, Stream


@dataclass(frozen=True)
class StateNotRestored(Rule):
    """A training continues without the state of its optimizer: the checkpoint was loaded in part.

    ## What it detects
    An optimizer that keeps a state, such as Adam's moments or the momentum of SGD, begins a step
    without any, although it has made steps before: its state was emptied between two steps, or the
    first step of the run has a number above 0 (`start_step`). It is a warning for `settled_steps`
    steps, and longer if the loss has not come back to its level; then it is a note.
    ## Why it matters
    The moments of Adam begin at zero again: the first updates have the full size of the learning
    rate in each entry, regardless of the gradient. Where the optimizer was left out of a
    checkpoint, a part of the model, the schedule or the random numbers often are too. The program
    reports no error, and the loss may need as many steps as were trained before.
    ## Evidence
    The number of parameters whose state was empty, and where they are known from before: the level
    of the loss and the learning rate, before and after.
    ## What to do
    - Save and load the state of the model, the optimizer, the scheduler, the GradScaler and the
      random number generators together.
    - Load the model with `strict=True`, and read the names that do not fit.
    - Load the optimizer's state after it has all its parameter groups.
    ## When it is wrong
    Programs that begin a new phase with a new optimizer on purpose; count its steps from 0. There
    is no code that corrects it: only your program knows its checkpoint.
    ## References
    PyTorch documentation, "Saving and loading a general checkpoint", 2024; Kingma & Ba, "Adam: A
    Method for Stochastic Optimization", 2015, arXiv:1412.6980, section 3.
    """

    code: ClassVar[str] = "TV608"
    stage: ClassVar[Stage] = Stage.WIRING
    permanent: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV102", "TV501", "TV502", "TV503", "TV504", "TV505", "TV601", "TV602", "TV606", "TV701"}
    )
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "Your program empties the optimizer's state on purpose."

    parameters_max: int = threshold(0, "Parameters whose state was empty; fires above this value.")
    settled_steps: int = threshold(
        1000, "Steps after which it is a note, if the loss is back at its level."
    )
    level_steps: int = threshold(20, "Recorded steps in the level of the loss before and after.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, for the newest loss of the state."""
        events = [e for e in history.events if e.kind == EventKind.OPTIMIZER_STATE_EMPTY]
        if not events:
            return
        event = events[-1]
        course = Course(history)
        settled = history.last_step - event.step >= self.settled_steps
        note = settled and course.recovered(event.step)
        count = int(event.attributes.get("parameters", 0))
        if count <= self.parameters_max:
            return
        loss = self._levels(history.scalar(Scalar.LOSS).finite(), event.step)
        rate = self._levels(course.learning_rate, event.step, last=1)
        changes = "".join(
            f"; the {name} was {number(before)} before and {number(after)} after"
            for name, (before, after) in (("loss", loss), ("learning rate", rate))
            if np.isfinite([before, after]).all() and before != after
        )
        yield self.finding(
            severity=Severity.INFO if note else Severity.WARNING,
            since_step=event.step,
            summary=f"State not restored: {event.text} began step {event.step} without the state "
            f"of {count} parameters that it had before{changes}.",
            evidence=(
                Evidence(
                    quantity="parameters with an empty optimizer state",
                    seen=float(count),
                    limit=float(self.parameters_max),
                    direction="above",
                    healthy=(0.0, 0.0),
                ),
                *self._pair("loss", loss),
                *self._pair("learning rate", rate),
            ),
            confidence=0.95,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _levels(self, series: Series, step: int, *, last: int | None = None) -> tuple[float, float]:
        """Return the medians of the values before `step` and from it on; NaN without values.

        The loss of `step` itself was computed before the optimizer could change anything.
        """
        last = self.level_steps if last is None else last
        return (
            middle(series.values[series.steps < step][-last:]),
            middle(series.values[series.steps >= step][:last]),
        )

    def _pair(self, name: str, levels: tuple[float, float]) -> Iterator[Evidence]:
        if np.isfinite(levels).all():
            yield Evidence(quantity=f"{name} before", seen=levels[0])
            yield Evidence(quantity=f"{name} after", seen=levels[1])

    @staticmethod
    def sick() -> History:
        """Return a resume without the moments of Adam, at a loss as at the start."""
        history = _run(np.r_[np.full(60, 0.2), np.full(60, 2.3)])
        parameters: dict[str, str | float] = {"parameters": 6.0}
        history.add(Event(60, 0.0, EventKind.OPTIMIZER_STATE_EMPTY, "Adam", parameters))
        return history

    @staticmethod
    def healthy() -> History:
        """Return a restart of the learning rate with the state kept: a warm restart."""
        return _run(np.r_[np.full(60, 0.2), np.full(60, 0.4)])


def _run(loss: Column) -> History:
    values = np.asarray(loss)
    rate = np.where(np.arange(len(values)) < 60, 1e-4, 1e-3)
    return Example(len(values)).scalars(loss=values, learning_rate__0=rate).history
