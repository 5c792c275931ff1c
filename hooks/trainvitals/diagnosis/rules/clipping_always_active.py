"""TV105: gradient clipping shrinks every gradient to a small part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import clipping
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import middle
from trainvitals.wire import Scalar

_CLIPPED = 0.99
"""Norm after clipping as a share of the norm before, below which the step was clipped."""


@dataclass(frozen=True)
class ClippingAlwaysActive(Rule):
    """Gradient clipping is active at nearly every step and leaves a small part of the gradient.

    ## What it detects
    Over the newest 100 steps (at least 60), clipping was active in more than 95 %, and the median
    norm after it is less than a tenth of the norm before. It is a warning while the loss has not
    fallen by 10 % and has no downward trend, otherwise a note.
    ## Why it matters
    With SGD, such a limit divides the learning rate by the same factor, differently at each step.
    Adam divides by the gradient's own scale and hardly notices a constant factor, but each
    gradient then counts the same, regardless of its size.
    ## Evidence
    The share of clipped steps, the median norm after clipping relative to before, and the limit
    that results: the median norm after clipping.
    ## What to do
    - Set `max_norm` to about the usual norm, so that clipping acts on exceptions only.
    - If the norm is large for another reason, remove that: targets or inputs that are not scaled,
      weights that are too large, a loss that is summed.
    ## When it is wrong
    Gradients that are normalised on purpose: the finding is then a note while the run learns.
    ## References
    Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", 2013,
    arXiv:1211.5063; Zhang et al., "Why gradient clipping accelerates training", 2020,
    arXiv:1905.11881.
    """

    code: ClassVar[str] = "TV105"
    stage: ClassVar[Stage] = Stage.OPTIMIZER
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV501", "TV806", "TV502", "TV507", "TV602", "TV603", "TV607"}
    )
    needs: ClassVar[tuple[Need, ...]] = ()
    fix: ClassVar[str] = clipping(1.0)
    refuted_by: ClassVar[str] = "A larger max_norm does not change the course of the loss."

    active_share_max: float = threshold(0.95, "Share of the newest steps that were clipped.")
    ratio_min: float = threshold(
        0.1, "Median norm after clipping relative to before; fires below this value."
    )
    observations: int = threshold(100, "Newest steps that are examined.")
    observations_min: int = threshold(60, "Minimum number of steps with both norms.")
    fall_min: float = threshold(0.1, "Fall of the loss from which the finding is only a note.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        ratio, after = _ratio(history)
        seen = ratio.last(self.observations)
        if len(seen) < self.observations_min:
            return
        active = float((seen.values < _CLIPPED).mean())
        left = middle(seen.values)
        if not active > self.active_share_max or not left < self.ratio_min:
            return
        course = Course(history)
        learns = course.learned(share=self.fall_min) or course.falling or course.converged
        stuck = course.known and not learns
        size = middle(after[-self.observations :])
        yield self.finding(
            severity=Severity.WARNING if stuck else Severity.INFO,
            since_step=_since(ratio),
            summary=(
                f"Clipping: {percent(active)} of the newest {len(seen)} steps were clipped, to "
                f"{percent(left)} of their gradient norm (median; {number(size)} is left)"
                + (", and the loss does not fall." if stuck else ".")
            ),
            evidence=(
                Evidence(
                    quantity="share of clipped steps",
                    seen=active,
                    limit=self.active_share_max,
                    direction="above",
                    healthy=(0.0, 0.5),
                    unit="share",
                ),
                Evidence(
                    quantity="norm after clipping relative to before",
                    seen=left,
                    limit=self.ratio_min,
                    direction="below",
                    healthy=(0.3, 1.0),
                    unit="share",
                ),
                Evidence(quantity="norm after clipping", seen=size),
            ),
            fix=clipping(size / left),
            confidence=0.85,
            stream="scalar",
            statistic=Scalar.GRADIENT_NORM_BEFORE_CLIPPING,
        )

    @staticmethod
    def sick() -> History:
        """Return norms near 1 that are clipped to 0.001, and a loss that stays."""
        return _run(before=1.0, after=1e-3)

    @staticmethod
    def healthy() -> History:
        """Return norms that are always clipped, to half of their size."""
        return _run(before=2.0, after=1.0)


def _ratio(history: History) -> tuple[Series, np.ndarray]:
    """Return the norm after clipping over the norm before, and the norm after, at the same steps.

    Steps without either norm, or with one that is 0 or not finite, are left out.
    """
    before = history.scalar(Scalar.GRADIENT_NORM_BEFORE_CLIPPING).finite()
    after = history.scalar(Scalar.GRADIENT_NORM).finite()
    steps, at_before, at_after = np.intersect1d(before.steps, after.steps, return_indices=True)
    large, small = before.values[at_before], after.values[at_after]
    known = (large > 0) & (small > 0)
    return Series(steps[known], small[known] / large[known]), small[known]


def _since(ratio: Series) -> int:
    unclipped = np.flatnonzero(~(ratio.values < _CLIPPED))
    at = int(unclipped[-1]) + 1 if len(unclipped) else 0
    return int(ratio.steps[min(at, len(ratio) - 1)])


def _run(*, before: float, after: float) -> History:
    n = 120
    return (
        Example(n)
        .scalars(
            loss=2.3 + 0.02 * np.sin(np.arange(n)),
            gradient_norm=after,
            gradient_norm_before_clipping=before,
        )
        .history
    )
