"""TV106: batches of a few samples, whose gradients point in different directions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.supervision import loss_of_constant, only_loss
from trainvitals.diagnosis.update_ratio import update_ratios
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class GradientNoiseDominates(Rule):
    """The batches are so small that the noise of the gradient exceeds the gradient.

    ## What it detects
    A batch has at most 8 samples, the noise of the loss from step to step is above 10 % of the
    initial loss, and after 300 steps the loss has not fallen by 20 %, although each step changes
    the weights by at least 0.1 % of their size (median over the matrices). Silent where the
    gradients of several batches are accumulated; a note where nothing shows how far the loss can
    fall.
    ## Why it matters
    The gradient of one sample is the true gradient plus noise. Where the noise is larger, the steps
    cancel each other: the weights wander, and more steps help little. The noise falls with the
    number of samples; below the critical batch size, twice the samples halve the steps needed.
    ## Evidence
    The number of samples of a batch, the noise of the loss, and the fall of the loss.
    ## What to do
    - Batches of 32 to 256 samples; the learning rate can then be higher.
    - If the memory does not suffice: accumulate the gradients of several batches before a step.
    - Or a lower learning rate: more steps then average the noise.
    ## When it is wrong
    A task that is not learned with large batches either. Batches whose size the loss does not show,
    such as packed sequences.
    ## References
    McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, arXiv:1812.06162.
    """

    code: ClassVar[str] = "TV106"
    stage: ClassVar[Stage] = Stage.OPTIMIZER
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV502", "TV504", "TV505", "TV806"})
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS, Stream.UPDATE)
    fix: ClassVar[str] = at(
        Moment.TRAINING_BATCH,
        "rows = torch.randint(len(x_train), (64,))  # as DataLoader(..., batch_size=64)\n"
        "x, y = x_train[rows], y_train[rows]",
    )
    refuted_by: ClassVar[str] = "With larger batches the loss falls no faster."

    samples_max: int = threshold(8, "Maximum number of samples of a batch.")
    noise_min: float = threshold(
        0.1, "Noise of the loss from step to step, as a share of the initial loss."
    )
    fall_max: float = threshold(0.2, "Fall of the loss as a share of its initial value.")
    update_ratio_min: float = threshold(1e-3, "Update ratio, median over the weight matrices.")
    steps_min: int = threshold(300, "Minimum number of finished steps.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course, kind = Course(history), only_loss(history)
        shape = (kind.target_shape or kind.prediction_shape) if kind else ()
        if not shape or shape[0] > self.samples_max or not course.known or course.converged:
            return
        if len(history.scalar(Scalar.MICRO_BATCHES)):
            return  # the gradients of several batches are accumulated
        if len(course.loss) < self.steps_min or course.initial <= 0:
            return
        share = course.noise / course.initial
        level = float(np.mean(course.loss.values[-100:])) / float(np.mean(course.loss.values[:100]))
        if share < self.noise_min or 1 - level > self.fall_max:
            return
        ratios = update_ratios(history).values
        if not len(ratios) or not float(np.nanmedian(ratios)) >= self.update_ratio_min:
            return
        yield self.finding(
            severity=Severity.INFO if loss_of_constant(history) is None else Severity.WARNING,
            since_step=int(course.loss.steps[0]),
            summary=f"Gradient noise: with {shape[0]} sample{'s' * (shape[0] > 1)} in a batch the "
            f"loss varies by {percent(share)} of its start from step to step, and after "
            f"{len(course.loss)} steps its mean is {percent(level)} of the first hundred's.",
            evidence=(
                Evidence(
                    quantity="samples in a batch",
                    seen=float(shape[0]),
                    limit=float(self.samples_max),
                    direction="below",
                    healthy=(16.0, None),
                ),
                Evidence(
                    quantity="noise of the loss as a share of its initial value",
                    seen=share,
                    limit=self.noise_min,
                    direction="above",
                    healthy=(None, 0.05),
                    unit="share",
                ),
                Evidence(
                    quantity="fall of the mean loss, newest hundred against first hundred",
                    seen=1 - level,
                    limit=self.fall_max,
                    direction="below",
                    unit="share",
                    text=f"mean of the loss now {number(course.shown(course.now(100)))}",
                ),
            ),
            confidence=0.7,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    @staticmethod
    def sick() -> History:
        """Return batches of one sample, and a loss that varies by half of its level."""
        return _run(1, 0.5, 0.7)

    @staticmethod
    def healthy() -> History:
        """Return the same noise in a run that learns."""
        return _run(1, 0.5, 0.2)


def _run(samples: int, spread: float, end: float) -> History:
    n = 400
    random = np.random.default_rng(0).normal(0, spread, n)
    course = end + (0.7 - end) * np.exp(-np.arange(n) / 60)
    loss = np.abs(course * (1 + random / math.sqrt(samples)))
    places = [
        Place(f"{i}.weight", kind="weight", shape=(32, 32), depth=i, module=str(i))
        for i in range(3)
    ]
    example = Example(n).scalars(loss=loss)
    example.stream(Stream.UPDATE, places, {p.name: {Stat.RATIO: 5e-3} for p in places})
    given: dict[str, str | float] = {"target_shape": f"({samples},)"}
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, "BCEWithLogitsLoss", given))
    return example.history
