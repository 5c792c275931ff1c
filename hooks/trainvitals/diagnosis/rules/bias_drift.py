"""TV701: biases that run away from the signal they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import Window, rows_named, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Flags, Floats, block_means, median, trailing_run, trend
from trainvitals.wire import Place, Stat, Stream

LEFT_OUT = {"before_norm", "recurrent", "attention"}


@dataclass(frozen=True)
class BiasDrift(Rule):
    """A layer's bias moves further than the signal it is added to is wide.

    ## What it detects
    d = RMS(b_t − b_0)/S, where S is the standard deviation of the layer's output across samples: a
    bias is the same for every sample, so S is the scale of the signal without it. Reported above
    2.5 while it still rises (Mann–Kendall over ten blocks, more than 0.1 per 100 steps) or while
    the loss is flat; above 4 until the loss has fallen by a third; and above 0.4
    when it rises and the bias moves ten times faster, relative to its size, than the weights.
    Biases before a norm layer, of recurrent layers and of attention are left out.
    ## Why it matters
    Then the layer's output says more about the bias than about the input. In the last layer the
    model learns the mean of the targets or the majority class first, slowly, and the weights
    wait; in hidden layers units are pushed to where they are always on or always off.
    ## Evidence
    d and its limit, its trend per 100 steps, and the common share: |mean Δb|/RMS Δb, near 1 when
    all units drift alike, which tells an offset in targets or inputs.
    ## What to do
    - Regression: set the last bias to the targets' mean, or standardise the targets.
    - Classification: set it to the logarithm of the classes' frequencies.
    - Give biases the learning rate of the weights, or a lower one; standardise the inputs.
    ## When it is wrong
    A bias that has found its place and stays there, in a run that learns, is not reported.
    ## References
    Karpathy, "A Recipe for Training Neural Networks", 2019 ("init well"); Lin et al., "Focal Loss
    for Dense Object Detection", 2017, arXiv:1708.02002, section 3.3 (prior for the last bias).
    """

    code: ClassVar[str] = "TV701"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV502"})
    needs: ClassVar[tuple[Need, ...]] = (
        Stream.WEIGHT,
        Stream.ACTIVATION,
    )
    fix: ClassVar[str] = "with torch.no_grad(): head.bias.copy_(class_frequencies.log())"
    refuted_by: ClassVar[str] = "The drift stops and the loss falls."

    drift_max: float = threshold(2.5, "RMS(b_t − b_0)/S; fires above this value while it rises.")
    drift_early: float = threshold(0.4, "The same, for a bias that is faster than its weight.")
    slope_min: float = threshold(0.1, "Rise of d per 100 steps.")
    p_max: float = threshold(0.01, "p-value of the Mann–Kendall test over ten blocks.")
    drift_extreme: float = threshold(
        4.0, "RMS(b_t − b_0)/S above which a bias counts even when it has settled."
    )
    ratio_factor: float = threshold(
        10.0, "Update ratio of the bias over that of its weight from which it is faster."
    )
    steps_min: int = threshold(100, "Steps there must be, unless the drift is extreme.")
    steps_min_extreme: int = threshold(
        64, "Steps there must be when it is: before that the head may be finding its place."
    )
    observations: int = threshold(20, "Captured steps there must be.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding: the last layer's bias when it drifts, else the worst."""
        rows, outputs = self._biases(history)
        drift = window(history, Stream.WEIGHT, Stat.DRIFT_RMS, rows, last=128)
        course = Course(history)
        if not rows or len(drift.steps) < self.observations or course.converged:
            return
        if history.last_step < self.steps_min_extreme - 1:
            return
        # The larger of the spread at the start and now: behind a layer that died it is nearly 0.
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
        faster = self._outruns_weights(history, rows)
        with np.errstate(invalid="ignore"):
            far = (now > self.drift_max) & (rising | course.flat)
            sick = far | ((now > self.drift_early) & rising & faster)
            # Early on a head moves far beside the little that PyTorch's default lets it differ by.
            if history.last_step < self.steps_min - 1:
                sick[:] = False
            if not course.learned(share=0.3):
                sick |= now > self.drift_extreme
        if not sick.any():
            return
        places = [history.places(Stream.WEIGHT)[row] for row in rows]
        deepest = max(p.depth for p in places)
        order = sorted(
            np.flatnonzero(sick), key=lambda i: (not _is_last(places[i], deepest), -now[i], i)
        )
        at = int(order[0])
        yield self._found(
            history,
            places[at],
            float(spread[at]),
            float(now[at]),
            float(slope[at]) if rising[at] else 0.0,
            sick,
        )

    def _found(
        self,
        history: History,
        place: Place,
        spread: float,
        now: float,
        slope: float,
        sick: Flags,
    ) -> Finding:
        """`slope` is 0 for a bias that has settled."""
        limit = self.drift_max if now > self.drift_max else self.drift_early
        if not slope and now > self.drift_extreme:
            limit = self.drift_extreme
        # Over all frames kept, not only those the trend looks at.
        whole = history.series(Stream.WEIGHT, Stat.DRIFT_RMS, place.name)
        run = max(1, int(trailing_run(whole.values > limit * spread)))
        common = self._common_share(history, place)
        single = place.shape == (1,) or common > 0.8
        return self.finding(
            severity=Severity.WARNING,
            where=place.name,
            since_step=int(whole.steps[-run]),
            summary=(
                f"{place.name} has moved {now:.2g} times the standard deviation of its layer's "
                "output across samples"
                + (f" and still moves ({slope:+.2g} per 100 steps)." if slope else ".")
            ),
            evidence=(
                Evidence(
                    quantity="drift of the bias relative to the layer's signal",
                    seen=now,
                    limit=limit,
                    direction="above",
                    healthy=(0.0, 0.4),
                ),
                *self._trend(slope),
                Evidence(
                    quantity="common share of the drift",
                    seen=common,
                    unit="share",
                    text="near 100 %: all units drift alike, as with an offset in the targets",
                ),
                Evidence(quantity="biases affected", seen=float(sick.sum())),
            ),
            fix="with torch.no_grad(): head.bias.fill_(targets.mean())" if single else self.fix,
            confidence=0.85,
            stream=Stream.WEIGHT,
            statistic=Stat.DRIFT_RMS,
        )

    def _trend(self, slope: float) -> tuple[Evidence, ...]:
        if not slope:
            return ()
        return (
            Evidence(
                quantity="rise per 100 steps", seen=slope, limit=self.slope_min, direction="above"
            ),
        )

    def _biases(self, history: History) -> tuple[list[int], list[int]]:
        """Return the rows of the biases to judge and of their layers' outputs."""
        places = history.places(Stream.WEIGHT)
        rows = [
            i
            for i, p in enumerate(places)
            if p.kind == "bias" and p.trainable and not LEFT_OUT & set(p.flags)
        ]
        outputs = rows_named(history, Stream.ACTIVATION, [places[i].module for i in rows])
        known = [(i, o) for i, o in zip(rows, outputs, strict=True) if o is not None]
        return [i for i, _ in known], [o for _, o in known]

    def _outruns_weights(self, history: History, rows: list[int]) -> Flags:
        """Return for each bias whether its update ratio is far above its weight's."""
        places = history.places(Stream.WEIGHT)
        names = [places[i].name for i in rows]
        weights = [name.removesuffix("bias") + "weight" for name in names]
        ratio_b, ratio_w = (
            self._update_ratios(history, rows_named(history, Stream.UPDATE, found))
            for found in (names, weights)
        )
        with np.errstate(invalid="ignore"):
            faster: Flags = ratio_b > self.ratio_factor * ratio_w
        return faster

    def _update_ratios(self, history: History, rows: list[int | None]) -> Floats:
        ratios = np.full(len(rows), np.nan)
        known = [i for i, row in enumerate(rows) if row is not None]
        seen = window(
            history, Stream.UPDATE, Stat.RATIO, [row for row in rows if row is not None], last=20
        )
        if len(seen.steps) and known:
            ratios[known] = median(seen.values)
        return ratios

    def _common_share(self, history: History, place: Place) -> float:
        mean = history.series(Stream.WEIGHT, Stat.DRIFT_MEAN, place.name).values[-10:]
        rms = history.series(Stream.WEIGHT, Stat.DRIFT_RMS, place.name).values[-10:]
        total = float(median(rms))
        return abs(float(median(mean))) / total if total > 0 else float("nan")

    @staticmethod
    def sick() -> History:
        """Return a head whose bias walks towards targets with a mean of 50."""
        return _head(drift=np.linspace(0, 20, 120))

    @staticmethod
    def healthy() -> History:
        """Return a head whose bias moved by twice the spread early and has stayed there since."""
        return _head(drift=2 * (1 - np.exp(-np.arange(120) / 5)), loss_end=0.3)


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
