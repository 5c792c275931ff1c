"""TV506: the validation loss rises while the training loss falls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course, validation_losses
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Floats, middle, noise, trend
from trainvitals.wire import Scalar, Stream

_AROUND: Final = 10
"""Training losses on each side of an evaluation whose median is compared with it."""
_NEWEST: Final = 3
"""Evaluations whose median is the current validation loss."""


class _Best(NamedTuple):
    """The best evaluation so far, and the losses there and now."""

    at: int
    step: int
    validation: float
    validation_now: float
    training: float
    training_now: float


@dataclass(frozen=True)
class Overfitting(Rule):
    """The validation loss rises, or stays high, while the training loss falls.

    ## What it detects
    Needs `monitor.loss(value, split="validation")`. One of three cases, at least three evaluations
    after the minimum of the validation loss (medians of three):
    (1) The validation loss has risen by more than 10 % and twice its noise, with an upward
    trend (Mann–Kendall) or to a level 20 % and twice its noise higher, and the training loss has
    fallen by more than 10 % in the same time.
    (2) The training loss is less than a tenth of the validation loss, and the validation loss was
    never below half of the initial training loss: the training samples were memorised.
    (3) Six evaluations or more have not improved on the minimum, which is above a quarter of the
    initial training loss (a fifth, if the training loss is below 5 % of the validation loss) and
    below the first evaluations by 40 % and four times the noise; the training loss has fallen by
    25 % since, to less than 70 % of the validation loss.
    ## Why it matters
    From the minimum on, the model learns features that are specific to the training samples. Each
    further step makes it worse on others, although the training loss looks better than before.
    ## Evidence
    The rise of the validation loss since its minimum, and the fall of the training loss.
    ## What to do
    - Keep the weights of the minimum (early stopping).
    - More data or augmentation; weight decay, dropout, or a smaller model.
    - Check the labels: noise in them is memorised first.
    ## When it is wrong
    The cross entropy of a classifier can rise through overconfident errors while its accuracy still
    improves. A validation set of other data than the training set (a shifted domain) rises too.
    ## References
    Prechelt, "Early Stopping - But When?", 1998; Guo et al., "On Calibration of Modern Neural
    Networks", 2017, arXiv:1706.04599.
    """

    code: ClassVar[str] = "TV506"
    stage: ClassVar[Stage] = Stage.LOSS
    damages_loss: ClassVar[bool] = False
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "A validation metric, such as the accuracy, still improves."

    evaluations_min: int = threshold(6, "Minimum number of evaluations.")
    since_minimum: int = threshold(3, "Minimum number of evaluations after the minimum.")
    rise_min: float = threshold(
        0.1, "Rise of the validation loss above its minimum, as a share of the minimum."
    )
    rise_noise: float = threshold(2.0, "The same rise as a multiple of the series' noise.")
    p_max: float = threshold(
        0.01, "Maximum p-value of the trend of the validation loss after its minimum."
    )
    training_fall: float = threshold(
        0.1, "Fall of the training loss since the minimum, as a share; 0 to 1."
    )
    memorised_max: float = threshold(
        0.1, "Training loss divided by the validation loss: memorised below this value."
    )
    little_learned: float = threshold(
        0.5, "Minimum of the validation loss, divided by the initial training loss."
    )
    same_unit: float = threshold(
        3.0,
        "Maximum factor of validation to training loss at the first evaluation, for cases 2 and 3.",
    )
    since_minimum_stalled: int = threshold(
        6, "Minimum number of evaluations after the minimum, for case 3."
    )
    stalled_level: float = threshold(
        0.25, "Minimum of the validation loss, divided by the initial training loss, for case 3."
    )
    memorised_stalled: float = threshold(
        0.05, "Training loss divided by the validation loss: memorised below it, for case 3."
    )
    stalled_level_memorised: float = threshold(
        0.2, "The limit in place of `stalled_level` if the training samples were memorised."
    )
    stalled_learned: float = threshold(
        0.4, "Fall of the validation loss from its first evaluations, as a share, for case 3."
    )
    stalled_noise: float = threshold(
        4.0, "The same fall as a multiple of the series' noise, for case 3."
    )
    stalled_fall: float = threshold(
        0.25, "Fall of the training loss since the minimum, as a share, for case 3."
    )
    stalled_max: float = threshold(0.7, "Training loss divided by the validation loss, for case 3.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run, for the split that rose most."""
        course = Course(history)
        if not course.known:
            return
        found = [
            (split, series, best)
            for split, series in validation_losses(history)
            if (best := self._best(series, course)) is not None
        ]
        risen = [f for f in found if self._rises(f[1], f[2])]
        if risen:
            split, _, best = max(risen, key=lambda f: f[2].validation_now / f[2].validation)
            yield self._risen(split, best, course)
            return
        for split, series, best in found:
            if self._memorised(series, best, course):
                yield self._memory(split, best, course)
                return
        for split, series, best in found:
            if self._stalled(series, best, course):
                yield self._stall(split, best, len(series) - 1 - best.at, course)
                return

    def _best(self, series: Series, course: Course) -> _Best | None:
        """Return the minimum of the validation loss; None if it is too recent."""
        values = series.values.astype(np.float64)
        if len(values) < max(self.evaluations_min, _NEWEST + 1) or float(values.min()) <= 0:
            return None
        # A single low evaluation is noise: the minimum of medians of three.
        smooth = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
        at = int(np.argmin(smooth)) + 1
        if len(values) - 1 - at < self.since_minimum:
            return None
        step = int(series.steps[at])
        middle_at = int(np.searchsorted(course.loss.steps, step))
        around = course.loss.values[max(0, middle_at - _AROUND) : middle_at + _AROUND]
        newest = course.loss.values[-2 * _AROUND :]
        if len(around) == 0 or middle(around) <= 0:
            return None
        return _Best(
            at,
            step,
            float(smooth[at - 1]),
            middle(values[-_NEWEST:]),
            middle(around),
            middle(newest),
        )

    def _rises(self, series: Series, best: _Best) -> bool:
        rise = best.validation_now - best.validation
        spread = noise(series.values)
        if rise <= self.rise_min * best.validation or rise <= self.rise_noise * spread:
            return False
        if best.training_now > (1 - self.training_fall) * best.training:
            return False
        # Without the evaluations of the minimum: noise alone rises from its own minimum.
        after = series.values[best.at + 2 :].astype(np.float64)
        p, slope = trend(after)
        # Risen at once and level since then: there is no trend.
        newer = float(after[len(after) // 2 :].min())
        level = newer > (1 + 2 * self.rise_min) * best.validation + self.rise_noise * spread
        return bool((p < self.p_max and slope > 0) or level)

    def _one_unit(self, series: Series, course: Course) -> bool:
        """Whether the first evaluation is of the size of the training loss at that step."""
        first = np.searchsorted(course.loss.steps, series.steps[0])
        start = middle(course.loss.values[max(0, first - _AROUND) : first + 1])
        ratio = float(series.values[0]) / start if start > 0 else np.inf
        return ratio <= self.same_unit

    def _stalled(self, series: Series, best: _Best, course: Course) -> bool:
        first = middle(series.values[:_NEWEST])
        fall = first - best.validation
        memorised = best.training_now <= self.memorised_stalled * best.validation_now
        level = self.stalled_level_memorised if memorised else self.stalled_level
        return (
            self._one_unit(series, course)
            and len(series) - 1 - best.at >= self.since_minimum_stalled
            # The noise of a loss that was level from the start has a minimum too.
            and fall >= self.stalled_learned * first
            and fall >= self.stalled_noise * noise(series.values)
            and best.validation >= level * course.initial
            and best.training_now <= (1 - self.stalled_fall) * best.training
            and best.training_now <= self.stalled_max * best.validation_now
        )

    def _memorised(self, series: Series, best: _Best, course: Course) -> bool:
        return (
            self._one_unit(series, course)
            and best.training_now <= self.memorised_max * best.validation_now
            and best.validation >= self.little_learned * course.initial
        )

    def _risen(self, split: str, best: _Best, course: Course) -> Finding:
        rise = best.validation_now / best.validation - 1
        fall = 1 - best.training_now / best.training
        return self._finding(
            best,
            f"Overfitting: the {split} loss has risen by {percent(rise)} since step {best.step} "
            f"(from {number(course.shown(best.validation))} to "
            f"{number(course.shown(best.validation_now))}), while the "
            f"training loss fell by {percent(fall)}.",
            Evidence(
                quantity=f"rise of the {split} loss since its minimum",
                seen=rise,
                limit=self.rise_min,
                direction="above",
                healthy=(None, self.rise_min / 2),
                unit="share",
            ),
            Evidence(
                quantity="fall of the training loss in the same time",
                seen=fall,
                limit=self.training_fall,
                direction="above",
                unit="share",
            ),
            confidence=0.9,
        )

    def _stall(self, split: str, best: _Best, evaluations: int, course: Course) -> Finding:
        fall = 1 - best.training_now / best.training
        return self._finding(
            best,
            f"Overfitting: {evaluations} evaluations since step {best.step} have not improved on "
            f"the {split} loss {number(course.shown(best.validation))} (now "
            f"{number(course.shown(best.validation_now))}), while the training loss fell by "
            f"{percent(fall)} to {number(course.shown(best.training_now))}.",
            Evidence(
                quantity=f"training loss divided by the {split} loss",
                seen=best.training_now / best.validation_now,
                limit=self.stalled_max,
                direction="below",
                healthy=(0.8, None),
                unit="share",
            ),
            Evidence(
                quantity="fall of the training loss since the minimum",
                seen=fall,
                limit=self.stalled_fall,
                direction="above",
                unit="share",
            ),
            Evidence(
                quantity="evaluations since the minimum",
                seen=float(evaluations),
                limit=float(self.since_minimum_stalled),
                direction="above",
            ),
            confidence=0.8,
        )

    def _memory(self, split: str, best: _Best, course: Course) -> Finding:
        share = best.training_now / best.validation_now
        left = best.validation / course.initial
        return self._finding(
            best,
            f"Overfitting: the training loss is {number(course.shown(best.training_now))}, but the "
            f"{split} loss was never below {number(course.shown(best.validation))}, "
            f"{percent(left)} of the initial loss.",
            Evidence(
                quantity=f"training loss divided by the {split} loss",
                seen=share,
                limit=self.memorised_max,
                direction="below",
                healthy=(0.5, None),
                unit="share",
            ),
            Evidence(
                quantity=f"minimum of the {split} loss divided by the initial training loss",
                seen=left,
                limit=self.little_learned,
                direction="above",
                unit="share",
            ),
            confidence=0.85,
        )

    def _finding(
        self, best: _Best, summary: str, *evidence: Evidence, confidence: float
    ) -> Finding:
        return self.finding(
            severity=Severity.WARNING,
            since_step=best.step,
            summary=summary,
            evidence=evidence,
            fix=at(
                Moment.BEFORE_TRAINING,
                f"steps = {best.step}  # the validation loss was lowest then",
            ),
            confidence=confidence,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    @staticmethod
    def sick() -> History:
        """Return a validation loss with a minimum at step 100."""
        rise = 0.6 + 0.004 * np.abs(np.arange(9, 300, 10) - 100)
        return _run(rise)

    @staticmethod
    def healthy() -> History:
        """Return a noisy validation loss that stays level, far above the training loss."""
        return _run(0.8 + 0.05 * np.random.default_rng(1).normal(size=30))


def _run(validation: Floats) -> History:
    """Return 300 steps with a falling loss, and one evaluation after every tenth."""
    every = np.full(300, np.nan)
    every[9::10] = validation
    training = 2.3 * np.exp(-np.arange(300) / 80)
    return Example(300).scalars(loss=training, loss__validation=every).history
