"""TV505: the loss no longer falls and swings about its level, more than its batches explain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import for_each_group
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import matrices_by_depth, spread_over, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, block_means, median, middle, noise, trend
from trainvitals.diagnosis.supervision import class_loss, only_loss
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream

_ONE_HOT: Final = 0.01
"""Variation of the standard deviation of targets, as a share; 0 for one-hot ones, above 0.1 for
mixup."""


class _Swing(NamedTuple):
    """The newest half of the loss: some losses from `step` on."""

    step: int
    losses: int
    level: float
    noise: float


@dataclass(frozen=True)
class LossOscillation(Rule):
    """The loss swings widely about a level and no longer falls.

    ## What it detects
    The newest half of the losses (at least 60, at most 500) has no downward trend, its noise from
    step to step is above 8 % of the initial loss, and the update ratio (median over the matrices)
    is above 0.008. The noise is also more than three times what a batch of this size explains:
    level/√n for n samples, √(level/2)/√n where that is more in a loss of classes (the few samples
    that are predicted wrongly hold it), (1 + p) times as much with a dropout of p, and √(s/(1 − s))
    times as much where one class has the share s > ½ of the targets. Left
    out: losses of unknown scale, losses whose batch size is not known, runs that have not learned,
    warm-up, and class probabilities as targets that are nearer to one class in some batches
    (mixup).
    ## Why it matters
    The steps are longer than the valley of the loss is wide: the weights jump from one side to the
    other. More steps do not help; a lower learning rate gives a lower loss at once.
    ## Evidence
    The noise as a share of the initial loss and beside what the batch explains, and the update
    ratio.
    ## What to do
    - Divide the learning rate by 3 to 10, or let it decay to zero.
    - Lower the momentum: 0.999 instead of 0.9 multiplies the step by 100.
    - Use larger batches, or average the weights.
    ## When it is wrong
    Samples whose losses differ by orders of magnitude, in batches that hold a few of them. A batch
    size that the loss does not show, such as packed sequences.
    ## References
    Cohen et al., "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability",
    2021, arXiv:2103.00065; McCandlish et al., "An Empirical Model of Large-Batch Training", 2018,
    arXiv:1812.06162.
    """

    code: ClassVar[str] = "TV505"
    stage: ClassVar[Stage] = Stage.LOSS
    explains: ClassVar[frozenset[str]] = frozenset({"TV502"})
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS, Stream.UPDATE)
    fix: ClassVar[str] = for_each_group("['lr'] /= 5")
    refuted_by: ClassVar[str] = "The loss is as noisy with a much lower learning rate."

    steps_min: int = threshold(60, "Minimum number of losses in the newest half.")
    noise_min: float = threshold(
        0.08, "Noise of the loss from step to step as a share of the initial loss."
    )
    batch_factor: float = threshold(
        3.0, "Noise as a multiple of level/√n, where a batch has n samples."
    )
    update_ratio_min: float = threshold(
        0.008, "Update ratio, median over the weight matrices and the newest captured steps."
    )
    fall_min: float = threshold(
        0.3, "Fall of the loss at its best (medians of 20), as a share of the initial loss."
    )
    level_min: float = threshold(
        0.9, "Level of the newest quarter divided by the one before, or two standard errors below."
    )
    p_max: float = threshold(0.05, "Maximum p-value of a downward trend in the newest half.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course = Course(history)
        if len(course.loss) < 2 * self.steps_min or not course.known or course.warming_up:
            return
        if course.converged or not self._had_fallen(course):
            return
        swing, ratio = self._swing(course), _ratio(history)
        if swing is None or swing.noise < self.noise_min * course.initial:
            return
        if not ratio >= self.update_ratio_min:
            return
        batch = _batch(history)
        if not batch or _targets_vary(history):
            return
        factor = self.batch_factor * (1 + float(history.facts.get("dropout_max", 0.0)))
        factor *= _of_rare_classes(history)
        spread = _spread_of_samples(history, swing.level)
        explained = factor * spread / math.sqrt(batch)
        if swing.noise >= explained:
            batches = f"{factor:.3g} × {number(spread)}/√n for {batch} samples"
            yield self._finding(swing, ratio, batches, explained, course)

    def _had_fallen(self, course: Course) -> bool:
        """Whether the loss was once below its start; it may have risen since."""
        parts = np.array_split(course.loss.values, max(1, len(course.loss) // 20))
        return min(map(middle, parts)) <= (1 - self.fall_min) * course.initial

    def _swing(self, course: Course) -> _Swing | None:
        """Return the newest half of the loss; None if it still falls."""
        half = min(500, len(course.loss) // 2)
        values = course.loss.values[-half:].astype(np.float64)
        p, slope = trend(block_means(values, 10))
        older, newer = (middle(part) for part in np.array_split(values, 2))
        spread = noise(values)
        # Two standard errors of the difference of two medians of half / 2 losses each.
        chance = 2 * 1.25 * spread * math.sqrt(4 / half)
        fallen = older - newer > max((1 - self.level_min) * older, chance)
        if fallen or (p < self.p_max and slope < 0):
            return None
        return _Swing(int(course.loss.steps[-half]), half, middle(values), spread)

    def _finding(
        self, swing: _Swing, ratio: float, batches: str, explained: float, course: Course
    ) -> Finding:
        level = course.shown(swing.level)
        height = course.shown(swing.level + swing.noise) - level
        return self.finding(
            severity=Severity.WARNING,
            since_step=swing.step,
            summary=f"Loss oscillation: in the newest {swing.losses} steps the loss swings by "
            f"{number(height)} about {number(level)} and no longer falls; each step "
            f"changes the weights by {percent(ratio)}.",
            evidence=(
                Evidence(
                    quantity="noise of the loss as a share of its initial value",
                    seen=swing.noise / course.initial,
                    limit=self.noise_min,
                    direction="above",
                    healthy=(None, self.noise_min / 2),
                    unit="share",
                ),
                Evidence(
                    quantity="noise of the loss from step to step",
                    seen=swing.noise,
                    limit=explained,
                    direction="above",
                    unit=course.unit,
                    text=batches,
                ),
                Evidence(
                    quantity="update ratio (median matrix)",
                    seen=ratio,
                    limit=self.update_ratio_min,
                    direction="above",
                ),
            ),
            confidence=0.7,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    @staticmethod
    def sick() -> History:
        """Return a loss that falls to 0.4 and then swings by 0.3, with batches of 32."""
        return _run(0.3)

    @staticmethod
    def healthy() -> History:
        """Return the same loss with the noise of its batches."""
        return _run(0.08)


def _ratio(history: History) -> float:
    """Return the median update ratio of the newest 20 captured steps."""
    rows = spread_over(matrices_by_depth(history, Stream.UPDATE))
    values = window(history, Stream.UPDATE, Stat.RATIO, rows, last=20).values
    return middle(median(values, axis=1)) if len(values) and rows else float("nan")


def _targets_vary(history: History) -> bool:
    """Whether the targets are probabilities of classes, of another entropy in each batch.

    Then the loss of the right prediction differs between the batches. One-hot and smoothed targets
    have one standard deviation.
    """
    kind = class_loss(history)
    if kind is None or "float" not in kind.target_type:
        return False
    spread = history.scalar(Scalar.TARGET_STD).finite().values.astype(np.float64)
    return bool(len(spread) > 0 and np.ptp(spread) > _ONE_HOT * spread.max())


def _spread_of_samples(history: History, level: float) -> float:
    """Return how far the losses of single samples spread at this level of the mean loss.

    Usually as far as their mean is high. With classes a low level is a mixture: most losses are
    near 0, and a share level/2 of the samples has one of about 2.
    """
    kind = only_loss(history)
    if kind is None or not (class_loss(history) or "BCE" in "".join(kind.kinds)):
        return level
    return max(level, math.sqrt(kind.scale * max(0.0, level) / 2))


def _of_rare_classes(history: History) -> float:
    """Return how much wider the losses of samples spread because one class has most of them."""
    shares = history.scalar(Scalar.TARGET_MAJORITY_SHARE).finite().values
    if (
        not len(shares)
        and (kind := only_loss(history)) is not None
        and "BCE" in "".join(kind.kinds)
    ):
        ones = history.scalar(Scalar.TARGET_MEAN).finite().values
        shares = np.maximum(ones, 1 - ones)
    share = min(middle(shares), 0.99) if len(shares) else 0.5
    return max(1.0, math.sqrt(share / (1 - share)))


def _batch(history: History) -> int:
    """Return the number of samples of a batch; 0 if it is not known."""
    kind = only_loss(history)
    shape = (kind.target_shape or kind.prediction_shape) if kind else ()
    return shape[0] if shape else 0


def _run(swing: float) -> History:
    random: Floats = np.random.default_rng(1).normal(0, 1, 240)
    smooth = 0.4 + 1.9 * np.exp(-np.arange(240) / 12)
    loss: Column = np.abs(smooth + swing * random)
    places = [
        Place(f"{i}.weight", kind="weight", shape=(32, 32), depth=i, module=str(i))
        for i in range(3)
    ]
    example = Example(240).scalars(loss=loss)
    example.stream(Stream.UPDATE, places, {p.name: {Stat.RATIO: 0.03} for p in places})
    given: dict[str, str | float] = {"target_shape": "(32,)"}
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", given))
    return example.history
