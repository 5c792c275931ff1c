"""TV107: a loss is reported and every gradient is exactly zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats
from trainvitals.diagnosis.supervision import DOWNSTREAM
from trainvitals.wire import Scalar, Stream


@dataclass(frozen=True)
class NoSignal(Rule):
    """The gradients of all parameters are exactly zero: the loss says nothing about the model.

    ## What it detects
    The total gradient norm is exactly 0 in each of the newest 20 steps, while a finite loss is
    reported, and the loss has not fallen to its minimum before.
    ## Why it matters
    No weight moves, except by weight decay and momentum. Typical causes: all rewards or advantages
    of a batch are equal, everything is clipped, the loss is multiplied by 0, or a hinge is
    satisfied from the start.
    ## Evidence
    The gradient norm, the number of steps with 0, and the loss.
    ## What to do
    Follow the factors between the loss and the output: print rewards, advantages, masks and
    weights of one batch. The first that is constant or 0 is the cause.
    There is no code for it: the factor is in rewards, masks or weights of your program.
    ## When it is wrong
    Rewards that are still rare. A loss of 0 with gradients is not reported.
    ## References
    Shao et al., "DeepSeekMath" (group-relative advantages), 2024, arXiv:2402.03300.
    """

    code: ClassVar[str] = "TV107"
    stage: ClassVar[Stage] = Stage.WIRING
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = (DOWNSTREAM - {"TV107"}) | {"TV603"}
    needs: ClassVar[tuple[Need, ...]] = (Stream.GRADIENT,)
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "A gradient is not zero after loss.backward()."

    steps_min: int = threshold(20, "Newest steps in a row with a gradient norm of exactly 0.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        norm = history.scalar(Scalar.GRADIENT_NORM)
        loss = history.scalar(Scalar.LOSS).finite()
        if len(norm) < self.steps_min or not (norm.values[-self.steps_min :] == 0).all():
            return
        moved = np.flatnonzero(norm.values != 0)
        start = int(moved[-1]) + 1 if len(moved) else 0
        since = int(norm.steps[start])
        course = Course(history)
        # A hinge that is satisfied, or a perfect fit in low precision.
        if len(loss.since(since)) < self.steps_min or (start and course.learned()):
            return
        if start and course.converged:
            return
        steps = len(norm) - start
        yield self.finding(
            severity=Severity.ERROR,
            since_step=since,
            summary=f"No signal: every gradient has been exactly 0 in the {steps} steps since step "
            f"{since}, with a loss of {number(float(loss.values[-1]))}.",
            evidence=(
                Evidence(
                    quantity="total gradient norm",
                    seen=0.0,
                    limit=0.0,
                    direction="below",
                    healthy=(1e-30, None),
                    text="some gradient is not zero",
                    statistic=Scalar.GRADIENT_NORM,
                ),
                Evidence(
                    quantity="steps in a row",
                    seen=float(steps),
                    limit=float(self.steps_min),
                    direction="above",
                ),
                Evidence(quantity="loss", seen=float(loss.values[-1])),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.GRADIENT_NORM,
        )

    @staticmethod
    def sick() -> History:
        """Return a policy gradient whose advantages are all 0."""
        return _run(np.zeros(30))

    @staticmethod
    def healthy() -> History:
        """Return rare rewards: a gradient in one of ten steps."""
        return _run(np.where(np.arange(30) % 10 == 0, 0.5, 0.0))


def _run(norm: Floats) -> History:
    return Example(len(norm)).scalars(loss=np.zeros(len(norm)), gradient_norm=norm).history
