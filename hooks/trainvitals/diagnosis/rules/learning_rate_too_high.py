"""TV601: the learning rate is so high that the loss rises or cannot fall."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at, clipping, for_each_group, lower_rate
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import Window
from trainvitals.diagnosis.rate_damage import (
    carried_too_far,
    collapsed,
    grown,
    overwritten,
    replaced,
    shattered,
)
from trainvitals.diagnosis.rises import cause_of, fell_at_once, is_erratic, sudden_rises
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import middle, trailing_run
from trainvitals.diagnosis.update_ratio import (
    HEALTHY_RATIO,
    STUCK_STEPS,
    abrupt_rises,
    first_ratio,
    update_ratios,
)
from trainvitals.wire import Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class LearningRateTooHigh(Rule):
    """The updates are so large, relative to the weights, that the loss rises or cannot fall.

    ## What it detects
    The update ratio r = RMS(ΔW)/RMS(W), median over the weight matrices. One of seven cases:
    (1) Within 20 steps, the loss rises above 1.5 times its initial value plus six times its
    noise, or becomes non-finite, directly after steps with r above 0.1 or after the learning
    rate rose threefold in one step, and has not returned below its initial value. (2) r is
    above 0.1 for ten captured steps in a row while the loss does not fall (above 0.3 if it need
    not fall). (3) r is above 0.03, and after 60 steps the loss has not fallen by 10 % and has
    no downward trend; r of the first ten steps counts only if r is less than a tenth of it now:
    large first updates may have broken the model. Silent if the first steps lowered a loss whose
    lowest value is unknown by 20 %. (4) The loss need not fall (a policy
    gradient), and one of the first three updates was larger than the weights; or one was, one
    of the first ten losses was twice the first, and the loss is not 30 % below the first; or the
    first one of some matrix was, and after 180 steps the loss is that of a constant prediction. (5)
    The loss grows by the same factor of 1.02 or more in each step from its first tenth on, tenfold
    in all. (6) The loss of a classifier that is not recurrent is above half of its start, r of the
    first steps was above 0.03, and the norm of the gradient has fallen below a hundredth. (7) With
    momentum m, each gradient acts for 1/(1 − m) steps, and the run has fewer, at least 100.
    ## Why it matters
    The gradient predicts the loss only close to the current weights. An update of a tenth of the
    weights is too far: the loss jumps or oscillates, units die, and values overflow. These
    findings are then consequences of the learning rate.
    ## Evidence
    The median update ratio and its limit; the initial, the largest and the current loss.
    ## What to do
    - Divide the learning rate by 10.
    - Add a warm-up of some hundred steps, and clip gradients.
    - With `reduction="sum"`, the gradient is multiplied by the batch size: use the mean.
    ## When it is wrong
    Adam's first steps have a ratio of about lr·√(3·fan_in), independent of the gradient: they count
    only while the loss does not fall. Weights that are initialised to zero are excluded.
    ## References
    Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, arXiv:1506.01186;
    Karpathy, "A Recipe for Training Neural Networks", 2019; Cohen et al., "Gradient Descent on
    Neural Networks Typically Occurs at the Edge of Stability", 2021, arXiv:2103.00065.
    """

    code: ClassVar[str] = "TV601"
    stage: ClassVar[Stage] = Stage.OPTIMIZER
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            *("TV101", "TV102", "TV107", "TV201", "TV202", "TV203", "TV501", "TV806"),
            *("TV511", "TV512", "TV514", "TV807"),
            "TV502",
            "TV503",
            "TV504",
            "TV505",
            "TV701",
            "TV901",
        }
    )
    needs: ClassVar[tuple[Need, ...]] = (
        Stream.UPDATE,
        Scalar.LOSS,
    )
    fix: ClassVar[str] = for_each_group("['lr'] /= 10")
    refuted_by: ClassVar[str] = "The loss falls below its start at the same learning rate."

    update_ratio_max: float = threshold(0.1, "Median of RMS(ΔW)/RMS(W) over the weight matrices.")
    update_ratio_stuck: float = threshold(
        0.03, "The same median; limit while the loss has not fallen after 60 steps."
    )
    overwritten_ratio: float = threshold(
        1.0, "The same median in one of the first three updates, for case (4)."
    )
    fall_early: float = threshold(
        0.1, "Fall of the loss, as a share of its start, that is learning after 60 steps."
    )
    collapse_share: float = threshold(
        0.1, "Update ratio now as a share of the first ones; below it the first ones count too."
    )
    observations: int = threshold(10, "Captured steps in a row above the limit.")
    rate_factor: float = threshold(
        3.0, "Factor of the learning rate from one step to the next that counts as an abrupt rise."
    )
    rise_max: float = threshold(0.5, "Rise of the loss, as a share of the initial loss.")
    rise_steps: int = threshold(
        20, "Maximum number of steps in which the loss rises by `rise_max`."
    )
    erratic_max: float = threshold(
        100.0, "Factor over the initial loss for a loss that doubles or halves from step to step."
    )
    gradient_share: float = threshold(
        0.01, "Norm of the gradient now, relative to the first steps: below it, it has collapsed."
    )
    level_min: float = threshold(
        0.5, "Loss now as a share of the initial loss, for a gradient that has collapsed."
    )
    rise_noise: float = threshold(6.0, "Multiple of the loss's noise, added to `rise_max`.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        ratio, course = update_ratios(history, with_zero_init=False), Course(history)
        if len(history.steps(Stream.UPDATE)) == 0:
            return
        for case in (self._loss_rose, self._above_limit, self._stuck, self._damaged):
            found = case(history, ratio, course)
            if found is not None:
                yield found
                return

    def _loss_rose(self, history: History, ratio: Window, course: Course) -> Finding | None:
        steps, values = course.loss.steps, course.loss.values
        nonfinite = history.scalar(Scalar.NONFINITE_LOSS)
        broken = nonfinite.steps[nonfinite.values > 0]
        big = ratio.steps[ratio.values > self.update_ratio_max]
        big = np.union1d(big, abrupt_rises(course, self.rate_factor))
        if not course.known or not len(big):
            return None
        start = course.initial
        # If the loss explodes in the first steps, the noise estimate contains the explosion.
        spread = min(course.noise, 0.5 * start)
        limit = start + self.rise_max * start + self.rise_noise * spread
        high = np.flatnonzero(
            sudden_rises(values, steps=self.rise_steps, rise=self.rise_max * start)
            & (values > limit)
        )
        onsets = steps[high[np.searchsorted(big, steps[high]) > 0]] if len(high) else steps[:0]
        cause = cause_of(big, onsets)
        if cause is None:
            very_big = ratio.steps[ratio.values > 5 * self.update_ratio_max]
            cause = cause_of(very_big, broken, within=3)
        if cause is None:
            return None
        onset, since = cause
        first = int(np.searchsorted(steps, onset)) if onset <= steps[-1] else 0
        after = values[first:]
        worst = float(after.max())
        stays_nonfinite = bool(len(broken)) and int(broken[-1]) >= int(steps[-1])
        if not stays_nonfinite and is_erratic(values) and worst < self.erratic_max * start:
            return None
        explosive = worst > 10 * start or stays_nonfinite
        if not explosive and (len(after) < 10 or (after > start).mean() < 0.5):
            return None
        settled = len(after) >= 10 or not stays_nonfinite
        if settled and middle(after[-10:]) < 0.95 * start:
            return None  # the loss has fallen since; a later NaN has another cause
        peak = float(np.nanmax(ratio.values))
        derived = f"initial loss + {percent(self.rise_max)} + {self.rise_noise:g} × its noise"
        reached, at = number(course.shown(worst), 4), int(steps[first + np.argmax(after)])
        if (broken >= since).any():
            reached, at = "a non-finite value", int(broken[broken >= since][0])
        span = max(1, at - since)
        return self._found(
            since,
            f"Learning rate {'far ' if explosive else ''}too high{_rate_at(course, since)}: the "
            f"loss rose from {number(course.shown(start), 4)} to {reached} within {span} "
            f"step{'s' * (span > 1)}.",
            (
                *self._ratio_evidence("largest update ratio (median matrix)", peak),
                Evidence(
                    quantity="largest loss",
                    seen=course.shown(worst),
                    limit=course.shown(limit) if worst > limit else None,
                    direction="above" if worst > limit else "",
                    text=derived if worst > limit else "",
                    statistic=Scalar.LOSS,
                ),
                Evidence(quantity="loss at the start", seen=course.shown(start)),
                Evidence(quantity="loss now", seen=course.shown(float(values[-1]))),
            ),
            0.95,
            course,
            self._fix_of_rise(history, ratio, course, since),
        )

    def _fix_of_rise(self, history: History, ratio: Window, course: Course, since: int) -> str:
        """Return the fix: the rate before its rise, clipped gradients, or a lower rate."""
        rises = abrupt_rises(course, self.rate_factor)
        if len(rises):
            rate = course.learning_rate
            usual_rate = float(rate.values[rate.steps < rises[0]].max())
            return at(
                Moment.STEP,
                f"for group in optimizer.param_groups:  # the rate rose at step {rises[0]}\n"
                f"    group['lr'] = min(group['lr'], {usual_rate:.3g})",
            )
        before = ratio.values[ratio.steps < since]
        norm = history.scalar(Scalar.GRADIENT_NORM)
        usual = norm.values[norm.steps < since]
        # The updates were of a usual size: a single gradient was too large, not the rate.
        if len(before) >= self.observations and middle(before) < HEALTHY_RATIO[1] and len(usual):
            return clipping(2 * middle(usual))
        return lower_rate(first_ratio(ratio))

    def _ratio_evidence(self, quantity: str, ratio: float) -> tuple[Evidence, ...]:
        """Return the ratio, with its limit if the ratio is above it."""
        if not ratio > self.update_ratio_max:
            return (Evidence(quantity=quantity, seen=ratio),)
        return (
            Evidence(
                quantity=quantity,
                seen=ratio,
                limit=self.update_ratio_max,
                direction="above",
                healthy=HEALTHY_RATIO,
            ),
        )

    def _above_limit(self, _: History, ratio: Window, course: Course) -> Finding | None:
        judged = course.known and not course.erratic
        limit = self.update_ratio_max if judged else 3 * self.update_ratio_max
        run = int(trailing_run(ratio.values > limit))
        if run < self.observations or course.learned(share=0.1) or course.converged:
            return None
        if course.known and course.falling:
            return None
        now = middle(ratio.values[-self.observations :])
        return self._found(
            int(ratio.steps[-run]),
            f"Learning rate too high{_rate_at(course, int(ratio.steps[-1]))}: each step changes "
            f"the weights by {number(now)} of their size (median matrix)"
            + (", and the loss does not fall." if judged else "."),
            (
                Evidence(
                    quantity="update ratio (median matrix)",
                    seen=now,
                    limit=limit,
                    direction="above",
                    healthy=HEALTHY_RATIO,
                    text=""
                    if judged
                    else f"3 × {self.update_ratio_max:g}, because this loss need not fall",
                ),
            ),
            0.9 if judged else 0.6,
            course,
            lower_rate(max(now, first_ratio(ratio))),
        )

    def _damaged(self, history: History, ratio: Window, course: Course) -> Finding | None:
        """Return a finding for what the first updates did, or the momentum does: cases 4 to 7."""
        damage = (
            grown(course, ratio)
            or collapsed(
                history,
                course,
                ratio,
                ratio_min=self.update_ratio_stuck,
                gradient_share=self.gradient_share,
                level_min=self.level_min,
            )
            or shattered(course, ratio, ratio_min=self.overwritten_ratio)
            or overwritten(
                course, ratio, ratio_min=self.overwritten_ratio, steps_min=self.rise_steps
            )
            or replaced(history, course, ratio_min=self.overwritten_ratio)
            or carried_too_far(history, course, ratio)
        )
        if damage is None:
            return None
        return self._found(
            damage.since,
            f"Learning rate too high{_rate_at(course, damage.since)}: {damage.text}.",
            damage.evidence,
            damage.confidence,
            course,
            damage.fix or lower_rate(damage.ratio),
        )

    def _stuck(self, history: History, ratio: Window, course: Course) -> Finding | None:
        if len(course.loss) < STUCK_STEPS or not course.known or course.erratic:
            return None
        if course.converged or course.falling or course.learned(share=self.fall_early):
            return None
        if course.now() > (1 + self.rise_max) * course.initial:
            return None  # a loss that rises slowly, such as a sum over longer and longer episodes
        if fell_at_once(history, course, 2 * self.fall_early, self.rise_noise):
            return None
        first = middle(ratio.values[ratio.steps < self.observations])
        ratio_seen = now = middle(ratio.values[-20:])
        # Adam's first updates are large in healthy runs. They are evidence only if the gradient has
        # vanished since: then they may have broken the model.
        if not now > self.collapse_share * first:
            ratio_seen = float(np.fmax(first, now))
        if not ratio_seen > self.update_ratio_stuck or course.warming_up:
            return None
        return self._found(
            int(ratio.steps[0]),
            f"Learning rate too high{_rate_at(course, int(ratio.steps[0]))}: each step changed "
            f"the weights by {number(ratio_seen)} of their size (median matrix), and the loss "
            f"went from {number(course.shown(course.initial), 4)} to only "
            f"{number(course.shown(course.now()), 4)} in "
            f"{len(course.loss)} steps.",
            (
                Evidence(
                    quantity="update ratio (median matrix)",
                    seen=ratio_seen,
                    limit=self.update_ratio_stuck,
                    direction="above",
                    healthy=(1e-5, self.update_ratio_stuck),
                ),
                Evidence(quantity="loss at the start", seen=course.shown(course.initial)),
                Evidence(quantity="loss now", seen=course.shown(course.now())),
            ),
            0.7,
            course,
            lower_rate(ratio_seen),
        )

    def _found(
        self,
        since: int,
        summary: str,
        evidence: tuple[Evidence, ...],
        confidence: float,
        course: Course,
        fix: str,
    ) -> Finding:
        rates = course.learning_rate.values
        rate = [Evidence(quantity="learning rate", seen=float(rates[-1]))] if len(rates) else []
        return self.finding(
            severity=Severity.ERROR,
            since_step=since,
            summary=summary,
            evidence=(*evidence, *rate),
            fix=fix,
            confidence=confidence,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    @staticmethod
    def sick() -> History:
        """Return updates of half the weights' size, and a loss that explodes."""
        return _run(0.5, [2.3, 2.9, 8.0] + [60.0] * 17)

    @staticmethod
    def healthy() -> History:
        """Return Adam's large first steps on a wide layer, with a loss that falls."""
        return _run(0.2, list(2.3 * np.exp(-np.arange(20) / 10)))


def _rate_at(course: Course, step: int) -> str:
    """Return the largest learning rate at `step` as ` (0.1)`; "" if it is unknown."""
    rate = course.learning_rate
    if not len(rate):
        return ""
    at = max(0, int(np.searchsorted(rate.steps, step, side="right")) - 1)
    return f" ({number(float(rate.values[at]))})"


def _run(ratio: float, loss: list[float]) -> History:
    places = [
        Place(f"{i}.weight", kind="weight", shape=(64, 64), depth=i, module=str(i))
        for i in range(3)
    ]
    return (
        Example(len(loss))
        .scalars(loss=loss, learning_rate__0=0.1)
        .stream(Stream.WEIGHT, places, {p.name: {Stat.L2: 5.0} for p in places})
        .stream(Stream.UPDATE, places, {p.name: {Stat.RATIO: ratio} for p in places})
        .history
    )
