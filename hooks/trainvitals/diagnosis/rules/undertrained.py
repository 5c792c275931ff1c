"""TV507: the plan of steps is at its end, and the model is not trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import Moment, at, higher_rate
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, block_means, middle, trend
from trainvitals.diagnosis.trained_before import trained_before
from trainvitals.diagnosis.update_ratio import update_ratios
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class Undertrained(Rule):
    """The planned steps are over, and the loss has hardly fallen or still falls.

    ## What it detects
    Needs `watch(total_steps=…)`; reports at the last planned step only. It is a warning if the loss
    has not fallen by 5 %, is near the loss of the best constant prediction, and (1) the plan has
    fewer than 100 steps, or (2) all steps together can have changed the weights by at most 2 %
    (update ratio, median over the matrices, summed over the steps). In a plan of fewer than 100
    steps it is also a warning if the loss has fallen, but its last quarter is above 90 % of the
    loss of the best constant prediction; in a longer plan if it is above that of the constant and
    still falls. It is a note if the loss is above 30 % of its initial value and still falls by more
    than 10 % in the last tenth of the steps; above 80 %, a fall by more than 3 % is a warning. In a
    plan of fewer than 100 steps it is a note if the loss is above 10 % of its initial value and
    falls by more than 20 % from the third quarter of the steps to the last one; above 80 % of its
    initial value, a fall by more than 3 % is a warning. In each plan it is a warning if the loss of
    the last quarter is above 75 % of the initial value, more than 3 % below that of the third one,
    and this fall is 40 to 120 % of that from the first quarter to the second: the loss has not
    begun to level off. A loss that falls faster than at first has only just begun to fall.
    Left out: a model that was trained before and, except at the end of a longer plan above the loss
    of a constant, a run with a validation loss, which shows better whether more steps help.
    ## Why it matters
    The run ends without an error, but the model was stopped before it had learned: its
    metrics say nothing about the model or the data.
    ## Evidence
    The fall of the loss, the number of planned steps, the sum of the update ratios, or the fall in
    the last tenth of the steps.
    ## What to do
    - Plan more steps: some hundred to see whether the model learns at all.
    - If the weights have hardly moved: a learning rate ten times as high.
    - Check the unit: epochs where steps are meant, or the reverse.
    ## When it is wrong
    A short run that only tests the program. A loss whose kind is not known is left out of the
    warnings, because its level does not show whether the model predicts a constant.
    ## References
    Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022, arXiv:2203.15556.
    """

    code: ClassVar[str] = "TV507"
    stage: ClassVar[Stage] = Stage.LOSS
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV806", "TV502", "TV701"})
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = at(Moment.BEFORE_TRAINING, "steps *= 10  # and a schedule of this length")
    refuted_by: ClassVar[str] = "A metric on held-out data is as good as a longer run's."

    steps_few: int = threshold(100, "Planned steps; a plan with fewer is short.")
    fall_min: float = threshold(
        0.05, "Fall of the loss as a share of its initial value; more than this is learning."
    )
    moved_max: float = threshold(
        0.02, "Sum of the update ratios of all steps, median over the weight matrices."
    )
    constant_min: float = threshold(
        0.7, "Loss now as a share of the loss of the best constant prediction."
    )
    level_min: float = threshold(
        0.3, "Loss in the last tenth of the steps as a share of the initial loss, for a note."
    )
    constant_short: float = threshold(
        0.9, "The same at the end of a short plan in which the loss has fallen."
    )
    constant_long: float = threshold(1.0, "The same at the end of a longer plan.")
    p_max: float = threshold(
        0.05, "Maximum p-value of a downward trend in the last third of the losses."
    )
    level_high: float = threshold(
        0.8, "The same level above which the note is a warning: little was learned."
    )
    slope_high: float = threshold(
        0.03, "The same fall as `slope_min`, for the warning above `level_high`."
    )
    level_few: float = threshold(
        0.1, "Loss in the last quarter of a short plan as a share of the initial loss."
    )
    slope_few: float = threshold(
        0.2, "Fall from the third to the last quarter of a short plan, as a share, for a note."
    )
    level_even: float = threshold(
        0.75,
        "Loss in the last quarter as a share of the initial loss, for a loss that falls evenly.",
    )
    evenness_min: float = threshold(
        0.4, "Fall from the third to the last quarter over that from the first to the second."
    )
    evenness_max: float = threshold(1.2, "The same above which learning has only just begun.")
    quarter_min: int = threshold(10, "Minimum number of losses in a quarter, for that comparison.")
    slope_min: float = threshold(
        0.1, "Fall of the loss in the last tenth of the steps, as a share, for a note."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        planned, course = history.total_steps, Course(history)
        if not planned or history.last_step < planned - 1 or not course.known:
            return
        if len(course.loss) < 2 or course.converged:
            return
        half = max(1, len(course.loss) // 2)
        start, now = course.initial, course.now(min(20, half))
        fall = 1 - now / start if start > 0 else 1.0
        constant = course.exact_constant
        if fall <= self.fall_min and constant and now >= self.constant_min * constant:
            yield from self._not_trained(
                history, planned, fall, (course.shown(start), course.shown(now))
            )
        elif fall > self.fall_min:
            falls = self._falls_in_few if planned < self.steps_few else self._still_falls
            yield from (
                [*self._no_better(history, planned, course)]
                or [*self._falls_as_before(history, planned, course)]
                or falls(history, planned, course)
            )

    def _not_trained(
        self, history: History, planned: int, fall: float, loss: tuple[float, float]
    ) -> Iterator[Finding]:
        moved = self._moved(history, planned)
        short, still = planned < self.steps_few, moved <= self.moved_max
        if not short and not still:
            return
        reason = (
            f"all {planned} steps together changed the weights by at most "
            f"{percent(max(moved, 0.001))}"
            if still
            else f"the plan has only {planned} steps"
        )
        yield self.finding(
            severity=Severity.WARNING,
            since_step=0 if still else history.last_step,
            summary=f"Undertrained: {reason}, and the loss went from {number(loss[0], 4)} to "
            f"{number(loss[1], 4)}.",
            evidence=(
                Evidence(
                    quantity="fall of the loss since the start",
                    seen=fall,
                    limit=self.fall_min,
                    direction="below",
                    healthy=(2 * self.fall_min, None),
                    unit="share",
                ),
                Evidence(
                    quantity="planned steps",
                    seen=float(planned),
                    limit=float(self.steps_few) if short else None,
                    direction="below" if short else "",
                ),
                Evidence(
                    quantity="sum of the update ratios (median matrix)",
                    seen=moved,
                    limit=self.moved_max if still else None,
                    direction="below" if still else "",
                ),
            ),
            fix=higher_rate(moved / planned) if still else None,
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _moved(self, history: History, planned: int) -> float:
        """Return the largest possible relative change of the weights; NaN if unknown or 0.

        Weights that do not move at all are another fault.
        """
        ratios = update_ratios(history).values
        if len(ratios) == 0:
            return float("nan")
        usual = middle(ratios)
        return planned * usual if usual > 0 else float("nan")

    def _no_better(self, history: History, planned: int, course: Course) -> Iterator[Finding]:
        """Yield a warning for a plan whose end is no better than a constant prediction.

        In a long plan, only for a loss that still falls: otherwise something else is wrong.
        """
        short = planned < self.steps_few
        newest = max(1, len(course.loss) // 4) if short else 20
        constant, now = course.exact_constant, course.now(newest)
        least = self.constant_short if short else self.constant_long
        if not constant or now < least * constant:
            return
        if trained_before(history, course.initial) or (short and _is_validated(history)):
            return
        if not short and not self._has_downward_trend(course):
            return
        loss = f"the loss ({number(course.shown(now), 4)})"
        reason = (
            f"the plan has only {planned} steps, and at their end {loss} is"
            if short
            else f"at the end of the {planned} planned steps {loss} still falls, and it is"
        )
        yield self.finding(
            severity=Severity.WARNING,
            since_step=history.last_step,
            summary=f"Undertrained: {reason} {number(now / constant)} times that of a constant "
            "prediction.",
            evidence=(
                Evidence(
                    quantity="loss relative to that of the best constant prediction",
                    seen=now / constant,
                    limit=least,
                    direction="above",
                    healthy=(0.0, 0.5),
                ),
                Evidence(
                    quantity="planned steps",
                    seen=float(planned),
                    limit=float(self.steps_few) if short else None,
                    direction="below" if short else "",
                ),
            ),
            confidence=0.7,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _has_downward_trend(self, course: Course) -> bool:
        """Whether the last third of the losses falls."""
        values = course.loss.values.astype(np.float64)
        p, direction = trend(block_means(values[-len(values) // 3 :], 10))
        return bool(p < self.p_max and direction < 0)

    def _falls_as_before(self, history: History, planned: int, course: Course) -> Iterator[Finding]:
        """Yield a warning for a loss that is still high and has not begun to level off."""
        quarters = np.array_split(course.loss.values.astype(np.float64), 4)
        if len(quarters[0]) < self.quarter_min or _is_validated(history):
            return
        first, second, before, newest = (float(part.mean()) for part in quarters)
        if newest < self.level_even * course.initial or trained_before(history, course.initial):
            return
        fall, early = before - newest, first - second
        error = course.noise * (2 / len(quarters[0])) ** 0.5
        if fall <= max(self.slope_high * before, 2 * error):
            return
        if not self.evenness_min * early < fall <= self.evenness_max * early:
            return
        yield self._falling(
            history.last_step,
            fall / before,
            self.slope_high,
            f"the loss is {percent(newest / course.initial)} of its start after all {planned} "
            f"planned steps, and still fell by {percent(fall / before)} from their third quarter "
            "to the last one",
            severity=Severity.WARNING,
        )

    def _falls_in_few(self, history: History, planned: int, course: Course) -> Iterator[Finding]:
        """Yield a warning for a short plan at whose end the loss falls as fast as before."""
        quarters = np.array_split(course.loss.values.astype(np.float64), 4)
        if len(quarters[0]) < 3:
            return
        before, newest = (float(part.mean()) for part in quarters[2:])
        if newest < self.level_few * course.initial or trained_before(history, course.initial):
            return
        if _is_validated(history):
            return
        little = newest > self.level_high * course.initial
        limit = self.slope_high if little else self.slope_few
        fall = 1 - newest / max(before, 1e-30)
        error = course.noise / max(before, 1e-30) * (2 / len(quarters[0])) ** 0.5
        if fall <= max(limit, 2 * error):
            return
        yield self._falling(
            history.last_step,
            fall,
            limit,
            f"the plan has only {planned} steps, and the loss still fell by {percent(fall)} from "
            "their third quarter to the last one",
            severity=Severity.WARNING if little else Severity.INFO,
        )

    def _falling(
        self, since: int, fall: float, limit: float, text: str, *, severity: Severity
    ) -> Finding:
        return self.finding(
            severity=severity,
            since_step=since,
            summary=f"Undertrained: {text}.",
            evidence=(
                Evidence(
                    quantity="fall of the loss at the end of the planned steps",
                    seen=fall,
                    limit=limit,
                    direction="above",
                    unit="share",
                ),
            ),
            confidence=0.6,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _still_falls(self, history: History, planned: int, course: Course) -> Iterator[Finding]:
        steps, values = course.loss.steps, course.loss.values.astype(np.float64)
        newest = values[steps >= 0.9 * planned]
        before = values[(steps >= 0.8 * planned) & (steps < 0.9 * planned)]
        if min(len(newest), len(before)) < 20:
            return
        fall = 1 - middle(newest) / max(middle(before), 1e-30)
        if middle(newest) < self.level_min * course.initial:
            return
        little = middle(newest) > self.level_high * course.initial
        slope = self.slope_high if little else self.slope_min
        if fall <= max(slope, 4 * course.noise / middle(before) / len(newest) ** 0.5):
            return
        if not self._has_downward_trend(course):
            return
        yield self._falling(
            history.last_step,
            fall,
            slope,
            f"the loss still fell by {percent(fall)} in the last tenth of the {planned} planned "
            "steps",
            severity=Severity.WARNING if little else Severity.INFO,
        )

    @staticmethod
    def sick() -> History:
        """Return 20 steps of a classifier whose loss stays at ln 4."""
        return _run(1.386 + 0.01 * _noise(20))

    @staticmethod
    def healthy() -> History:
        """Return the same loss in the first 20 of 2,000 planned steps."""
        return _run(1.386 + 0.01 * _noise(20), planned=2000)


def _is_validated(history: History) -> bool:
    """Whether the run has losses of other splits, which show better whether more steps help."""
    return any(name.startswith(f"{Scalar.LOSS}/") for name in history.scalar_names())


def _noise(n: int) -> Floats:
    return np.random.default_rng(0).normal(0, 1, n)


def _run(loss: Column, planned: int = 20) -> History:
    head = Place("2.weight", kind="weight", shape=(4, 8), module="2", flags=("output",))
    example = Example(len(np.asarray(loss)), total_steps=planned).scalars(loss=loss)
    history = example.stream(Stream.WEIGHT, [head], {"2.weight": {Stat.L2: 2.0}}).history
    history.facts["loss"] = "CrossEntropyLoss"
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", {"classes": 4.0}))
    return history
