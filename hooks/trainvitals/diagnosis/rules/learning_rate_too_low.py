"""TV602: the learning rate is so low that the weights hardly change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, times
from trainvitals.diagnosis.course import Course, settled
from trainvitals.diagnosis.default_share import default_share
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import for_each_group, higher_rate
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.hyperparameters import of_groups, recorded
from trainvitals.diagnosis.places import is_matrix, rms_window, rows_named, spread_over, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, median, middle
from trainvitals.diagnosis.supervision import only_loss
from trainvitals.diagnosis.trained_before import trained_before
from trainvitals.wire import Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class LearningRateTooLow(Rule):
    """The updates are so small, relative to the weights, that the model hardly learns.

    ## What it detects
    The largest update ratio RMS(ΔW)/RMS(W) of all weight matrices, median over 20 captured
    steps, is below 1e-6, or below 1e-4 while the loss is flat; or that of the median matrix is
    below 2e-5 while the loss is flat. Or, after 100 steps (500 without a plan), the loss is
    still above 75 % of that of the best constant prediction and did not fall to its level early,
    and all seen or planned steps together change the median matrix by less than 10 % of its size;
    or, after 100 steps (200 without a plan), the loss has fallen by less than 10 % and they change
    it by less than 2 %.
    At the same level, or with a flat loss, an eps of the optimizer (Adam) above 10 times the RMS of
    the largest gradient: the step is then divided by eps in place of the gradient's size. The
    gradient must be large enough (RMS above 1e-4 of the weights' RMS); otherwise the learning rate
    is not the cause. Or, after 100 steps (500 without a plan): the learning rates of two parameter
    groups differ by more than 1000 times, and all steps together change a matrix by less than 0.1 %
    of its size, a thousandth of the change of another; its values are still those of PyTorch's
    initialisation, and its gradient is not small. Excluded: warm-up in the first half of the
    planned steps, the end of a schedule, and converged runs. A model that was trained before (the
    initial loss is clearly below that of the best constant prediction) is fine-tuned with small
    steps on purpose: for it only the limit of 1e-6 holds, and the finding is a note.
    ## Why it matters
    At a ratio of 1e-6, a weight needs a million steps in one direction to change by its own size.
    ## Evidence
    The largest update ratio, its limit, the gradient relative to the weights, the learning rate.
    ## What to do
    - Multiply the learning rate by 10 until the ratio is about 1e-3.
    - A rate for Adam (1e-3) is low for SGD without momentum: 0.1 is the usual initial value there.
    ## When it is wrong
    Fine-tuning with a very small rate on purpose, with a loss other than the usual ones of classes
    and numbers; a schedule that ends near zero and whose peak
    was not captured.
    ## References
    Karpathy, "CS231n: Neural Networks Part 3", on the ratio of updates to weights; Cao et al.,
    "DeepFD", 2022, arXiv:2205.01938.
    """

    code: ClassVar[str] = "TV602"
    stage: ClassVar[Stage] = Stage.OPTIMIZER
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV806", "TV502", "TV507"})
    needs: ClassVar[tuple[Need, ...]] = (
        Stream.UPDATE,
        Stream.GRADIENT,
    )
    fix: ClassVar[str] = for_each_group("['lr'] *= 10")
    refuted_by: ClassVar[str] = "A loss that falls steadily at this learning rate."

    update_ratio_min: float = threshold(1e-6, "Largest RMS(ΔW)/RMS(W); fires below this value.")
    update_ratio_flat: float = threshold(
        1e-4, "Largest RMS(ΔW)/RMS(W); fires below this value while the loss is flat."
    )
    update_ratio_median: float = threshold(
        2e-5, "The same of the median matrix; fires below this value while the loss is flat."
    )
    gradient_min: float = threshold(
        1e-4, "Minimum RMS of the gradient relative to RMS of the weight, largest matrix."
    )
    moved_min: float = threshold(
        0.1, "Update ratio of the median matrix times the steps; below it no model is trained."
    )
    level_min: float = threshold(
        0.75, "Loss now, as a share of that of the best constant prediction, for this condition."
    )
    still_max: float = threshold(
        0.02, "The same sum below which a loss that has hardly fallen needs no known level."
    )
    fall_still: float = threshold(0.1, "Fall of the loss, as a share, for that condition.")
    steps_still: int = threshold(
        200, "Minimum number of steps for that condition without a plan; `steps_min` with one."
    )
    group_rates_max: float = threshold(
        1000.0, "Largest learning rate of the parameter groups relative to the smallest above 0."
    )
    moved_idle: float = threshold(
        1e-3, "Update ratio of a matrix times the steps; below it the matrix is as it was."
    )
    entries_min: int = threshold(64, "Entries of a matrix whose initialisation is recognised.")
    default_tolerance: float = threshold(
        0.1, "Deviation of its largest entry and its std from those of the default, as a share."
    )
    gradient_share_min: float = threshold(
        0.01, "Its gradient relative to its weights, as a share of the median matrix's."
    )
    steps_min: int = threshold(100, "Minimum number of steps, for this condition.")
    steps_min_no_plan: int = threshold(
        500, "The same if the run does not say how many steps are planned."
    )
    epsilon_min: float = threshold(1e-3, "The optimizer's eps; a smaller one is not judged.")
    epsilon_ratio: float = threshold(
        10.0, "eps relative to the RMS of the gradient, largest matrix; fires above it."
    )
    observations: int = threshold(20, "Captured steps in the median.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course = Course(history)
        if course.converged or course.cooling_down or self._warms_up(history, course):
            return
        places = history.places(Stream.UPDATE)
        rows = spread_over([i for i, p in enumerate(places) if is_matrix(p) and p.optimized])
        names = [places[i].name for i in rows]
        seen = window(history, Stream.UPDATE, Stat.RATIO, rows, last=self.observations)
        if len(seen.steps) < self.observations:
            return
        ratios = median(seen.values)
        if np.isnan(ratios).all():
            return
        largest = float(np.nanmax(ratios))
        if (found := self._large_epsilon(history, course, names)) is not None:
            yield found
            return
        trained = trained_before(history, course.initial)
        if not trained and (found := self._group(history, course, rows, ratios)) is not None:
            yield found
            return
        flat = course.flat and not trained
        limit = self.update_ratio_flat if flat else self.update_ratio_min
        gradient = self._relative_gradient(history, names)
        which = "largest"
        usual = middle(ratios)
        if flat and usual < self.update_ratio_median and largest >= limit:
            which, largest, limit = "median", usual, self.update_ratio_median
        slow = self._slow_limit(history, course, trained=trained) or self._still_limit(
            history, course, trained=trained
        )
        if largest >= limit and 0 < usual < slow:
            which, largest, limit = "median", usual, slow
        if largest >= limit or largest == 0 or not gradient > self.gradient_min:
            return
        where = names[int(np.nanargmax(ratios))]
        rates = course.learning_rate.values
        yield self.finding(
            severity=Severity.INFO if trained else Severity.WARNING,
            since_step=int(history.steps(Stream.UPDATE)[0]),
            summary=(
                f"Learning rate too low{f' ({number(float(rates[-1]))})' if len(rates) else ''}: a "
                f"step changes {'each' if which == 'largest' else 'the median'} weight matrix by "
                f"{'at most ' * (which == 'largest')}{number(largest)} of its size."
            ),
            evidence=(
                Evidence(
                    quantity=f"{which} update ratio of all matrices",
                    seen=largest,
                    limit=limit,
                    direction="below",
                    healthy=(1e-4, 1e-2),
                    text=f"in {where}" * (which == "largest")
                    + (", with a flat loss" if flat else ""),
                ),
                Evidence(
                    quantity="gradient RMS relative to weight RMS, largest matrix",
                    seen=gradient,
                    limit=self.gradient_min,
                    direction="above",
                    text="the gradient is large enough; only the update is small",
                ),
                *_scale_evidence(history),
                *(
                    [Evidence(quantity="learning rate", seen=float(rates[-1]))]
                    if len(rates)
                    else []
                ),
            ),
            # A matrix that starts near 0 has a large ratio at any rate.
            fix=higher_rate(
                usual or largest, float(np.nanquantile(ratios, 0.75 if which == "median" else 1.0))
            ),
            confidence=0.9 if flat else 0.75,
            stream=Stream.UPDATE,
            statistic=Stat.RATIO,
        )

    def _warms_up(self, history: History, course: Course) -> bool:
        """Whether the rate rises, except in the second half of the plan: such a warm-up is long."""
        halfway = 0.5 * (history.total_steps or math.inf)
        return course.warming_up and history.last_step < halfway

    def _slow_limit(self, history: History, course: Course, *, trained: bool) -> float:
        """Return the median ratio with which all steps move a matrix by `moved_min`; 0: not judged.

        Only for a model that is not trained yet: its loss is near that of a constant.
        """
        steps = max(len(course.loss), history.total_steps or 0)
        constant = course.constant
        least = self.steps_min if history.total_steps else self.steps_min_no_plan
        if trained or not course.known or constant is None or len(course.loss) < least:
            return 0.0
        near = course.now() >= self.level_min * constant
        return self.moved_min / steps if near and not settled(course) else 0.0

    def _still_limit(self, history: History, course: Course, *, trained: bool) -> float:
        """Return the median ratio with which all steps move a matrix by `still_max`; 0: not judged.

        For losses whose level says nothing about a constant prediction.
        """
        steps = max(len(course.loss), history.total_steps or 0)
        least = self.steps_min if history.total_steps else self.steps_still
        if trained or not course.known or len(course.loss) < least:
            return 0.0
        fall = 1 - course.now() / course.initial if course.initial > 0 else 1.0
        return self.still_max / steps if fall < self.fall_still else 0.0

    def _large_epsilon(self, history: History, course: Course, names: list[str]) -> Finding | None:
        """Return a finding of an eps that is far above the gradients, which it then divides."""
        epsilon = _epsilon(history)
        near = course.flat or self._slow_limit(history, course, trained=False) > 0
        if epsilon < self.epsilon_min or not near or trained_before(history, course.initial):
            return None
        sizes = [
            rms_window(history, Stream.GRADIENT, [row], last=self.observations).values
            for row in rows_named(history, Stream.GRADIENT, names)
            if row is not None
        ]
        known = [median(values)[0] for values in sizes if len(values)]
        gradient = max((g for g in known if np.isfinite(g)), default=0.0)
        if not 0 < gradient * self.epsilon_ratio < epsilon:
            return None
        return self.finding(
            severity=Severity.WARNING,
            since_step=int(history.steps(Stream.UPDATE)[0]),
            summary=f"Learning rate too low: the optimizer's eps of {number(epsilon)} is "
            f"{times(epsilon / gradient)} the largest gradient (RMS), so that each step is the "
            "gradient times the learning rate, divided by eps.",
            evidence=(
                Evidence(
                    quantity="eps relative to the RMS of the gradient, largest matrix",
                    seen=epsilon / gradient,
                    limit=self.epsilon_ratio,
                    direction="above",
                    healthy=(0.0, 1e-3),
                ),
                Evidence(quantity="eps", seen=epsilon),
                Evidence(
                    quantity="loss now", seen=course.shown(course.now()), statistic=Scalar.LOSS
                ),
            ),
            fix=for_each_group("['eps'] = 1e-8"),
            confidence=0.85,
            stream=Stream.UPDATE,
            statistic=Stat.RATIO,
        )

    def _group(
        self, history: History, course: Course, rows: list[int], ratios: Floats
    ) -> Finding | None:
        """Return a finding of a matrix whose parameter group has a far lower rate than another."""
        steps = max(len(course.loss), history.total_steps or 0)
        rates = [rate for rate in of_groups(history, Scalar.LEARNING_RATE) if rate > 0]
        least = self.steps_min if history.total_steps else self.steps_min_no_plan
        if len(course.loss) < least or len(rates) < 2:
            return None
        spread, largest = max(rates) / min(rates), float(np.nanmax(ratios))
        if spread < self.group_rates_max:
            return None
        places = [history.places(Stream.UPDATE)[row] for row in rows]
        gradients = np.array([self._relative_gradient(history, [p.name]) for p in places])
        idle = (ratios > 0) & (ratios * steps < self.moved_idle)
        idle &= ratios * self.group_rates_max < largest
        idle &= gradients > self.gradient_share_min * middle(gradients)
        found = [i for i in np.flatnonzero(idle) if self._is_default(history, places[i])]
        if not found:
            return None
        where, moved = places[found[0]].name, float(ratios[found[0]]) * steps
        return self.finding(
            severity=Severity.WARNING,
            where=where,
            since_step=int(history.steps(Stream.UPDATE)[0]),
            summary=f"Learning rate too low for {where}: all {steps} steps together change it by "
            f"at most {number(moved)} of its size, and it is still as it was initialised; the "
            f"learning rates of the parameter groups differ by {times(spread)}.",
            evidence=(
                Evidence(
                    quantity=f"update ratio of {where}, times the steps",
                    seen=moved,
                    limit=self.moved_idle,
                    direction="below",
                    healthy=(0.1, None),
                ),
                Evidence(
                    quantity="largest learning rate of the parameter groups over the smallest",
                    seen=spread,
                    limit=self.group_rates_max,
                    direction="above",
                    healthy=(1.0, 100.0),
                ),
                Evidence(quantity="matrices like this", seen=float(len(found))),
            ),
            fix=for_each_group(f"['lr'] = {max(rates):g}"),
            confidence=0.85,
            stream=Stream.UPDATE,
            statistic=Stat.RATIO,
        )

    def _is_default(self, history: History, place: Place) -> bool:
        """Whether its values are those of PyTorch's initialisation: it was not trained before."""
        tolerance = self.default_tolerance
        return (
            default_share(history, [place], entries_min=self.entries_min, tolerance=tolerance)
            == 1.0
        )

    def _relative_gradient(self, history: History, names: list[str]) -> float:
        pairs = zip(
            rows_named(history, Stream.GRADIENT, names),
            rows_named(history, Stream.WEIGHT, names),
            strict=True,
        )
        both = [(g, w) for g, w in pairs if g is not None and w is not None]
        if not both:
            return float("nan")
        gradient, weight = (
            median(rms_window(history, stream, list(rows), last=self.observations).values)
            for stream, rows in zip(
                (Stream.GRADIENT, Stream.WEIGHT), zip(*both, strict=True), strict=True
            )
        )
        relative = gradient[weight > 0] / weight[weight > 0]
        return float(np.nanmax(relative)) if (~np.isnan(relative)).any() else float("nan")

    @staticmethod
    def sick() -> History:
        """Return SGD with a learning rate of 1e-7."""
        return _run(rates=[1e-7] * 100)

    @staticmethod
    def healthy() -> History:
        """Return the same small steps during a warm-up."""
        return _run(rates=list(np.linspace(1e-9, 1e-7, 100)))


def _epsilon(history: History) -> float:
    """Return the smallest eps of the optimizer's groups at its first step; 0 without one.

    That of Adafactor is a pair of numbers, and not judged.
    """
    values = [v for v in recorded(history, "eps") if isinstance(v, float)]
    return min(values, default=0.0)


def _scale_evidence(history: History) -> tuple[Evidence, ...]:
    kind = only_loss(history)
    if kind is None or not kind.scale < 1:
        return ()
    return (
        Evidence(
            quantity="factor on the mean loss",
            seen=kind.scale,
            text="the gradient is smaller by this factor",
        ),
    )


def _run(rates: list[float]) -> History:
    place = Place("0.weight", kind="weight", shape=(10, 10), depth=0, module="0")
    n = len(rates)
    return (
        Example(n)
        .scalars(loss=np.full(n, 2.3), learning_rate__0=rates)
        .stream(Stream.WEIGHT, [place], {place.name: {Stat.L2: 3.0}})
        .stream(Stream.GRADIENT, [place], {place.name: {Stat.L2: 0.5}})
        .stream(Stream.UPDATE, [place], {place.name: {Stat.RATIO: np.asarray(rates) * 0.16}})
        .history
    )
