"""TV501: the loss stays where it started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats
from trainvitals.wire import Scalar, Stream


@dataclass(frozen=True)
class NoLearning(Rule):
    """The loss is where it was at the start.

    ## What it detects
    After at least 100 steps the median of the newest 50 losses is within 2 % of the median of the
    first 10, or within the noise, shows no downward trend, and was never lower for long. Losses
    that can be negative have no level to compare with and are left out; so are a warm-up, a run
    that has converged (also before it was watched), and a loss noisier than 7 % of its level.
    ## Why it matters
    The run costs its full price and teaches the model nothing. The cause is elsewhere, mostly in
    the initialisation, the wiring, the learning rate or the data; a finding of those explains
    this one and is shown above it.
    ## Evidence
    The loss at the start and now, the noise, and how much it should have fallen at least.
    ## What to do
    - Overfit one batch: if that fails, it is the wiring; if it works, the data or the rate.
    - Try ten times the learning rate and a tenth of it for some hundred steps.
    - Check that inputs and targets belong together.
    ## When it is wrong
    Games between networks (GANs) and bootstrapped targets have losses that stay level while the
    model learns; a fine-tuned model may start at its floor.
    ## References
    Karpathy, "A Recipe for Training Neural Networks", 2019; Zhang et al., "AutoTrainer", 2021,
    arXiv:2102.09784.
    """

    code: ClassVar[str] = "TV501"
    stage: ClassVar[Stage] = Stage.LOSS
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = "for _ in range(200): loss = step(*one_batch)  # must fall to nearly 0"
    refuted_by: ClassVar[str] = "A metric on held-out data that improves."

    steps_min: int = threshold(100, "Finished steps there must be.")

    loss_low: float = threshold(
        1e-3, "A loss that starts below this value and stays there has converged already."
    )

    @property
    def steps_needed(self) -> int:
        """The loss is judged after `steps_min` steps."""
        return self.steps_min

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course = Course(history)
        # A rate that rises within the newest 50 steps has not had its chance yet.
        if len(course.loss) < self.steps_min or course.warming_up or course.converged:
            return
        if not course.flat or course.initial < self.loss_low:
            return
        several = float(history.facts.get("optimizers", 1))
        start, now = course.initial, course.now()
        steps = int(course.loss.steps[-1])
        yield self.finding(
            # The loss of one player says little of a game of several optimizers.
            severity=Severity.INFO if several > 1 else Severity.WARNING,
            since_step=int(course.loss.steps[0]),
            summary=f"The loss does not fall: it started at {start:.4g} and is {now:.4g} after "
            f"{steps + 1} steps.",
            evidence=(
                Evidence(
                    quantity="fall of the loss since the start",
                    seen=start - now,
                    limit=course.band,
                    direction="below",
                    text="2 % of the initial loss, or 0.9 times its noise",
                ),
                Evidence(quantity="loss now", seen=now),
                Evidence(quantity="loss at the start", seen=start),
                Evidence(quantity="noise of the loss from step to step", seen=course.noise),
            ),
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    @staticmethod
    def sick() -> History:
        """Return a loss that stays at ln 10."""
        return Example(150).scalars(loss=2.303 + _noise(150, 0.02)).history

    @staticmethod
    def healthy() -> History:
        """Return a loss as noisy as small batches make it, which falls slowly."""
        return Example(400).scalars(loss=np.linspace(2.303, 1.6, 400) + _noise(400, 0.3)).history


def _noise(n: int, std: float) -> Floats:
    return np.random.default_rng(0).normal(0, std, n)
