"""TV104: the gradients of the previous step are still there when a backward begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import ZERO_BACKWARD_STEP
from trainvitals.diagnosis.history import History, Values
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Flags, Floats
from trainvitals.diagnosis.supervision import DOWNSTREAM
from trainvitals.wire import Scalar, Stream


@dataclass(frozen=True)
class MissingZeroGrad(Rule):
    """Gradients are not cleared between steps, so each step adds to those of all steps before.

    ## What it detects
    In two of the newest six measured steps, gradients exist when the first backward begins, and
    their norm is that of the gradients of the step before: nothing cleared them after
    `optimizer.step()`. Accumulation over micro-batches within one step is not reported.
    ## Why it matters
    The optimizer gets the sum of all gradients since the start. Steps grow and point in old
    directions: the loss oscillates or diverges, and a smaller learning rate only delays it.
    ## Evidence
    The norm of the gradients before the backward, and the norm in the step before.
    ## What to do
    Call `optimizer.zero_grad()` once per step, before `loss.backward()`. With accumulation, call
    `optimizer.step()` and `optimizer.zero_grad()` after the same micro-batch.
    ## When it is wrong
    A program that adds up gradients over steps on purpose. With several optimizers the rule is
    silent: gradients of one may exist during the backward of another.
    ## References
    PyTorch documentation, torch.optim.Optimizer.zero_grad; Jiang et al., "Training with
    Confidence" (TrainCheck), 2025, arXiv:2506.14813.
    """

    code: ClassVar[str] = "TV104"
    stage: ClassVar[Stage] = Stage.WIRING
    explains: ClassVar[frozenset[str]] = DOWNSTREAM | {"TV901", "TV903"}
    fix: ClassVar[str] = ZERO_BACKWARD_STEP
    refuted_by: ClassVar[str] = "Every p.grad is None or zero just before loss.backward()."

    observations: int = threshold(2, "Minimum number of measured steps with old gradients.")
    window: int = threshold(6, "Newest measured steps in which they are counted.")
    tolerance: float = threshold(
        1e-3, "Maximum difference of the two norms, as a share of the norm of the step before."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        before = history.scalar(Scalar.GRADIENT_NORM_BEFORE_BACKWARD)
        norm = history.scalar(Scalar.GRADIENT_NORM).finite()
        if len(before) < self.observations or len(norm) == 0:
            return
        scale = history.scalar(Scalar.LOSS_SCALE)
        at = np.minimum(np.searchsorted(norm.steps, before.steps - 1), len(norm) - 1)
        previous = norm.values[at]
        known = (norm.steps[at] == before.steps - 1) & (previous > 0)
        kept = known & self._equal(before.values, previous)
        if len(scale):  # an optimizer that unscales inside its step leaves scaled gradients
            then = np.minimum(np.searchsorted(scale.steps, before.steps - 1), len(scale) - 1)
            kept |= known & self._equal(before.values, previous * scale.values[then])
        if int(kept[-self.window :].sum()) < self.observations:
            return
        newest = int(np.flatnonzero(kept)[-1])
        seen, expected = float(before.values[newest]), float(previous[newest])
        yield self.finding(
            severity=Severity.ERROR,
            since_step=int(before.steps[self._start(kept)]),
            summary=f"Missing zero_grad: when the backward of step {before.steps[newest]} began, "
            f"the gradients of the step before were still there (norm {number(seen)}).",
            evidence=(
                Evidence(
                    quantity="norm of the gradients before the backward",
                    seen=seen,
                    limit=0.0,
                    direction="above",
                    healthy=(0.0, 0.0),
                    text="gradients are cleared between steps",
                    statistic=Scalar.GRADIENT_NORM_BEFORE_BACKWARD,
                ),
                Evidence(quantity="gradient norm of the step before", seen=expected),
                Evidence(
                    quantity="measured steps with old gradients",
                    seen=float(kept[-self.window :].sum()),
                    limit=float(self.observations),
                    direction="above",
                    text=f"of the newest {min(self.window, len(kept))}",
                ),
            ),
            stream=Stream.SCALAR,
            statistic=Scalar.GRADIENT_NORM_BEFORE_BACKWARD,
        )

    def _equal(self, seen: Values, expected: Values) -> Flags:
        equal: Flags = np.abs(seen - expected) <= self.tolerance * expected
        return equal

    def _start(self, kept: Flags) -> int:
        """Return the index at which the newest series of old gradients began."""
        at = np.flatnonzero(kept)
        gaps = np.flatnonzero(np.diff(at) > self.window)
        return int(at[gaps[-1] + 1] if len(gaps) else at[0])

    @staticmethod
    def sick() -> History:
        """Return gradients that are added up from the first step on."""
        norm = np.linspace(0.3, 3.0, 8)
        return _run(norm, np.r_[0.0, norm[:-1]])

    @staticmethod
    def healthy() -> History:
        """Return a step with two losses: the gradients of the first exist before the second."""
        norm = np.linspace(0.3, 3.0, 8)
        return _run(norm, 0.6 * norm)


def _run(norm: Floats, before: Floats) -> History:
    example = Example(len(norm))
    return example.scalars(gradient_norm=norm, gradient_norm_before_backward=before).history
