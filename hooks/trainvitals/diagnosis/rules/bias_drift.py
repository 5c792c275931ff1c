"""TV701: a bias drifts further than the spread of its layer's output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import biases_apart, last_bias_as_targets
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import Window, medians_named, rows_named, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import (
    Flags,
    Floats,
    block_means,
    median,
    newest_five,
    trailing_run,
    trend,
)
from trainvitals.diagnosis.supervision import DISTANCES, has_kind, only_loss, usual_deviation
from trainvitals.wire import Place, Stat, Stream

LOGIT_LOSSES = {"CrossEntropyLoss", "NLLLoss", "BCEWithLogitsLoss"}
FIRST_STEPS = 10
LEFT_OUT = {"before_norm", "recurrent", "attention"}


@dataclass(frozen=True)
class BiasDrift(Rule):
    """A layer's bias drifts further than the standard deviation of the layer's output.

    ## What it detects
    The drift d = RMS(b_t − b_0)/S, where S is the standard deviation of the layer's output across
    samples. A bias is the same for every sample, so S is the scale of the signal without the bias.
    Reported above 2.5 while d still rises (Mann–Kendall test over ten blocks, more than 0.1 per 100
    steps) or while the loss is flat; above 4 until the loss has fallen by 30 %; and above 0.4 for
    100 steps when d rises and the bias's update ratio is more than ten times the weight's. Reported
    from the third step on if d is above 4 within the first ten steps in half of the biases, at
    least two, and their updates are more than ten times those of the weights of the same layers; a
    note once the loss has fallen by 90 %. Excluded: biases of hidden layers with fewer than 8
    units, or while the loss has fallen by half or is not known; biases before a normalisation
    layer, of recurrent layers and of attention; the last bias of a model whose loss is below half
    of that of the best constant prediction, or, where that is not known and for a sum, has fallen
    by 30 %; a last bias of a cross entropy that moved by less than 0.2, which hardly changes a
    probability; and one of a regression that moved by less than the targets' standard deviation.
    ## Why it matters
    The layer's output then depends more on the bias than on the input. In the last layer, the
    model first learns the mean of the targets or the majority class, slowly, while the weights
    learn little. In hidden layers, units become always active or always inactive.
    ## Evidence
    d and its limit; its trend per 100 steps; the common share |mean Δb|/RMS Δb, which is near 1
    when all units drift in the same direction, as with an offset in the targets or the inputs. The
    finding begins at the step at which d left the healthy range (0.4) for good.
    ## What to do
    - Regression: set the last bias to the mean of the targets, or standardise the targets.
    - Classification: set the last bias to the logarithm of the class frequencies.
    - Use the same or a lower learning rate for biases than for weights; standardise the inputs.
    ## When it is wrong
    A bias that converges to a new value in a run that learns can exceed the limit for a while.
    ## References
    Karpathy, "A Recipe for Training Neural Networks", 2019 ("init well"); Lin et al., "Focal Loss
    for Dense Object Detection", 2017, arXiv:1708.02002, section 3.3 (prior for the last bias).
    """

    code: ClassVar[str] = "TV701"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV502", "TV806"})
    explains_at: ClassVar[Mapping[Stage, frozenset[str]]] = {
        Stage.OPTIMIZER: frozenset({"TV101", "TV201", "TV202", "TV602"})
    }
    needs: ClassVar[tuple[Need, ...]] = (
        Stream.WEIGHT,
        Stream.ACTIVATION,
    )
    fix: ClassVar[str] = biases_apart("['lr'] /= 10")
    refuted_by: ClassVar[str] = "The drift stops and the loss falls."

    drift_max: float = threshold(2.5, "RMS(b_t − b_0)/S; fires above this value while it rises.")
    drift_early: float = threshold(
        0.4, "RMS(b_t − b_0)/S; limit for a bias that changes faster than its weight."
    )
    slope_min: float = threshold(0.1, "Minimum rise of d per 100 steps.")
    p_max: float = threshold(0.01, "Maximum p-value of the Mann–Kendall test over ten blocks.")
    drift_extreme: float = threshold(
        4.0, "RMS(b_t − b_0)/S above which the rule fires although the drift no longer rises."
    )
    ratio_factor: float = threshold(
        10.0, "The bias changes faster above this ratio of its update ratio to the weight's."
    )
    logit_min: float = threshold(
        0.2,
        "RMS(b_t − b_0) of the last bias before a softmax or sigmoid, below which it is silent.",
    )
    steps_min: int = threshold(100, "Minimum number of steps, unless the drift is extreme.")
    steps_min_extreme: int = threshold(
        64, "Minimum number of steps for an extreme drift; the last bias converges before that."
    )
    steps_early: int = threshold(
        100, "Steps for which d has been above `drift_early`, for a bias that changes faster."
    )
    learned_max: float = threshold(
        0.5, "Fall of the loss, as a share, above which the biases of hidden layers are healthy."
    )
    constant_max: float = threshold(
        0.5, "Loss as a share of that of a constant, below which the last bias is healthy."
    )
    healed_min: float = threshold(
        0.9, "Fall of the loss, as a share, after which biases that moved at once are a note."
    )
    steps_first: int = threshold(3, "Measured steps for biases that move at once.")
    units_min: int = threshold(8, "Minimum number of units of a hidden layer.")
    observations: int = threshold(20, "Minimum number of captured steps.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding: the last layer's bias if it drifts, otherwise the largest drift."""
        rows, outputs = self._biases(history)
        drift = window(history, Stream.WEIGHT, Stat.DRIFT_RMS, rows, last=128)
        course = Course(history)
        if (thrown := self._thrown(history, rows, outputs, course)) is not None:
            yield thrown
            return
        if not rows or len(drift.steps) < self.observations or course.converged:
            return
        if history.steps_seen < self.steps_min_extreme:
            return
        # Use the larger of the initial and the current spread: after a dead layer, the current
        # spread is nearly 0.
        spread = np.fmax(
            *(
                median(window(history, Stream.ACTIVATION, Stat.SAMPLE_STD, outputs, **part).values)
                for part in ({"first": 3}, {"last": 5})
            )
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            d = Window(drift.steps, np.where(spread > 0, drift.values / spread, np.nan))
        now = median(d.values[-5:])
        p, slope = trend(block_means(d.values, 10))
        blocks = min(10, len(d.steps))
        slope = slope * blocks / max(1, int(d.steps[-1] - d.steps[0])) * 100
        rising = (p < self.p_max) & (slope > self.slope_min)
        faster = self._faster_than_weight(history, rows)
        with np.errstate(invalid="ignore"):
            far = (now > self.drift_max) & (rising | course.flat)
            lasting = np.array([self._steps_outside(d, i) for i in range(len(rows))])
            early = (now > self.drift_early) & (lasting >= self.steps_early)
            sick = far | (early & rising & faster)
            # In the first steps, the last bias moves far compared with the small output spread of
            # PyTorch's default initialisation.
            if history.steps_seen < self.steps_min:
                sick[:] = False
            if not course.learned(share=0.3):
                sick |= now > self.drift_extreme
        places = [history.places(Stream.WEIGHT)[row] for row in rows]
        deepest = max(p.depth for p in places)
        # A hidden bias may find a new place in a run that learns, and a few units say little.
        can_speak = course.known and not course.learned(share=self.learned_max)
        hidden = np.array([not _is_last(p, deepest) for p in places])
        narrow = np.array([p.shape[0] < self.units_min for p in places])
        sick &= ~hidden | (can_speak & ~narrow)
        if self._is_served(history, course):
            sick &= hidden
        if (small := self._small_for_outputs(history)) is not None:
            is_output = np.array(["output" in p.flags for p in places])
            sick &= ~(is_output & (median(drift.values[-5:]) < small))
        if not sick.any():
            return
        order = sorted(
            np.flatnonzero(sick), key=lambda i: (not _is_last(places[i], deepest), -now[i], i)
        )
        at = int(order[0])
        yield self._found(
            history, places[at], float(now[at]), float(slope[at]) if rising[at] else 0.0, sick
        )

    def _small_for_outputs(self, history: History) -> float | None:
        """Return the drift of the last bias that is small for the task; None if not known.

        Many networks predict a constant at first, so that their outputs differ little: a drift that
        is small beside the targets is then several deviations of the outputs.
        """
        if has_kind(history, LOGIT_LOSSES):
            return self.logit_min
        deviation = usual_deviation(history) if has_kind(history, set(DISTANCES)) else math.nan
        return deviation if deviation > 0 else None

    def _is_served(self, history: History, course: Course) -> bool:
        """Whether the model is far better than any constant, so that its last bias is no matter.

        In a sum, another term can be what has not been learned yet.
        """
        kind = only_loss(history)
        if course.constant and not (kind and kind.terms):
            return course.now() < self.constant_max * course.constant
        return course.learned(share=0.3)

    def _thrown(
        self, history: History, rows: list[int], outputs: list[int], course: Course
    ) -> Finding | None:
        """Return a finding if the first updates move the biases far, and the weights little."""
        n = self.steps_first
        drift = window(history, Stream.WEIGHT, Stat.DRIFT_RMS, rows, first=n)
        if len(rows) < 2 or len(drift.steps) < n or drift.steps[-1] > FIRST_STEPS:
            return None
        spread = window(history, Stream.ACTIVATION, Stat.SAMPLE_STD, outputs, first=1).values[0]
        names = [history.places(Stream.WEIGHT)[row].name for row in rows]
        updates = [
            medians_named(history, Stream.UPDATE, Stat.RMS, found, first=n)
            for found in (names, [name.removesuffix("bias") + "weight" for name in names])
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            d = np.where(spread > 0, drift.values[-1] / spread, np.nan)
            factor = updates[0] / updates[1]
            sick: Flags = (d > self.drift_extreme) & (factor > self.ratio_factor)
        if sick.sum() < max(2, len(rows) / 2):
            return None
        at = int(np.flatnonzero(sick)[0])
        return self.finding(
            severity=Severity.INFO if course.learned(self.healed_min) else Severity.WARNING,
            where=names[at],
            since_step=int(drift.steps[0]),
            summary=f"Bias drift: the first {int(drift.steps[-1]) + 1} steps moved {names[at]} by "
            f"{number(float(d[at]))} times the standard deviation of its layer's output, and an "
            f"update of it is {number(float(factor[at]))} times that of the weight; so are "
            f"{int(sick.sum())} of {len(rows)} biases.",
            evidence=(
                _relative(float(d[at]), self.drift_extreme),
                Evidence(
                    quantity="RMS of the bias's update divided by that of the weight",
                    seen=float(factor[at]),
                    limit=self.ratio_factor,
                    direction="above",
                    healthy=(0.1, 3.0),
                ),
            ),
            fix=biases_apart(f"['lr'] /= {float(np.median(factor[sick])):.0f}"),
            stage=Stage.OPTIMIZER,
            confidence=0.9,
            stream=Stream.WEIGHT,
            statistic=Stat.DRIFT_RMS,
        )

    def _steps_outside(self, d: Window, at: int) -> int:
        """Return for how many steps d of a bias has been above `drift_early`."""
        run = int(trailing_run(d.values[:, at] > self.drift_early))
        return int(d.steps[-1] - d.steps[-run]) if run else 0

    def _found(
        self, history: History, place: Place, now: float, slope: float, sick: Flags
    ) -> Finding:
        """Return the finding; `slope` is 0 for a bias that no longer moves."""
        limit = self.drift_max if now > self.drift_max else self.drift_early
        if not slope and now > self.drift_extreme:
            limit = self.drift_extreme
        common = self._common_share(history, place)
        single = place.shape == (1,) or common > 0.8
        return self.finding(
            severity=Severity.WARNING,
            where=place.name,
            since_step=self._since(history, place),
            summary=(
                f"Bias drift: {place.name} has moved by {number(now)} times the standard "
                f"deviation of its layer's output across samples (limit {limit:g})"
                + (f" and still moves ({number(slope)} per 100 steps)." if slope else ".")
            ),
            evidence=(
                _relative(now, limit),
                *self._trend(slope),
                Evidence(
                    quantity="common share of the drift",
                    seen=common,
                    unit="share",
                    text="near 100 %: all units drift in the same direction, as with an offset in "
                    "the targets",
                ),
                Evidence(quantity="biases affected", seen=float(sick.sum())),
            ),
            fix=last_bias_as_targets(place.name) if single and "output" in place.flags else None,
            confidence=0.85,
            stream=Stream.WEIGHT,
            statistic=Stat.DRIFT_RMS,
        )

    def _since(self, history: History, place: Place) -> int:
        """Return the step from which on the drift exceeds `drift_early`, the healthy range.

        It depends on the stored frames alone and not on the step at which they are examined: each
        step is compared with the spread up to that step, by medians of five frames.
        """
        drift = history.series(Stream.WEIGHT, Stat.DRIFT_RMS, place.name)
        output = history.series(Stream.ACTIVATION, Stat.SAMPLE_STD, place.module)
        initial = median(output.values[:3].astype(np.float64))
        recent = np.r_[initial, median(newest_five(output.values))]
        spread = np.fmax(initial, recent[np.searchsorted(output.steps, drift.steps, side="right")])
        with np.errstate(invalid="ignore", divide="ignore"):
            outside = median(newest_five(drift.values / spread)) > self.drift_early
        return int(drift.steps[-max(1, int(trailing_run(outside)))])

    def _trend(self, slope: float) -> tuple[Evidence, ...]:
        if not slope:
            return ()
        return (
            Evidence(
                quantity="rise per 100 steps", seen=slope, limit=self.slope_min, direction="above"
            ),
        )

    def _biases(self, history: History) -> tuple[list[int], list[int]]:
        """Return the rows of the biases to check and of their layers' outputs."""
        places = history.places(Stream.WEIGHT)
        rows = [
            i
            for i, p in enumerate(places)
            if p.kind == "bias" and p.trainable and not LEFT_OUT & set(p.flags)
        ]
        outputs = rows_named(history, Stream.ACTIVATION, [places[i].module for i in rows])
        known = [(i, o) for i, o in zip(rows, outputs, strict=True) if o is not None]
        return [i for i, _ in known], [o for _, o in known]

    def _faster_than_weight(self, history: History, rows: list[int]) -> Flags:
        """Return for each bias whether its update ratio exceeds `ratio_factor` × the weight's."""
        places = history.places(Stream.WEIGHT)
        names = [places[i].name for i in rows]
        weights = [name.removesuffix("bias") + "weight" for name in names]
        ratio_b, ratio_w = (
            medians_named(history, Stream.UPDATE, Stat.RATIO, found, last=20)
            for found in (names, weights)
        )
        with np.errstate(invalid="ignore"):
            faster: Flags = ratio_b > self.ratio_factor * ratio_w
        return faster

    def _common_share(self, history: History, place: Place) -> float:
        mean = history.series(Stream.WEIGHT, Stat.DRIFT_MEAN, place.name).values[-10:]
        rms = history.series(Stream.WEIGHT, Stat.DRIFT_RMS, place.name).values[-10:]
        total = float(median(rms))
        return abs(float(median(mean))) / total if total > 0 else float("nan")

    @staticmethod
    def sick() -> History:
        """Return a last layer whose bias drifts to 20 times the output's standard deviation."""
        return _head(drift=np.linspace(0, 20, 120))

    @staticmethod
    def healthy() -> History:
        """Return a last layer whose bias moved by twice the spread early and then stayed there."""
        return _head(drift=2 * (1 - np.exp(-np.arange(120) / 5)), loss_end=0.3)


def _relative(seen: float, limit: float) -> Evidence:
    return Evidence(
        quantity="drift of the bias relative to the layer's signal",
        seen=seen,
        limit=limit,
        direction="above",
        healthy=(0.0, 0.4),
    )


def _is_last(place: Place, deepest: int) -> bool:
    return "output" in place.flags or place.depth == deepest


def _head(drift: Floats, loss_end: float = 1.5) -> History:
    weight = Place("head.weight", kind="weight", shape=(1, 8), depth=1, module="head")
    bias = Place("head.bias", kind="bias", shape=(1,), depth=1, module="head", flags=("output",))
    n = len(drift)
    return (
        Example(n)
        .scalars(loss=np.linspace(2, loss_end, n))
        .stream(
            Stream.WEIGHT,
            [weight, bias],
            {"head.bias": {Stat.DRIFT_RMS: drift, Stat.DRIFT_MEAN: drift}},
        )
        .stream(
            Stream.UPDATE,
            [weight, bias],
            {"head.weight": {Stat.RATIO: 1e-3}, "head.bias": {Stat.RATIO: 2e-3}},
        )
        .stream(
            Stream.ACTIVATION,
            [Place("head", kind="Linear", depth=1)],
            {"head": {Stat.SAMPLE_STD: 1.0}},
        )
        .history
    )
