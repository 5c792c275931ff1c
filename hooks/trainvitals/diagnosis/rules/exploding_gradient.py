"""TV102: gradients grow from the last layer to the first, or from step to step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, times
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import INITIALISE, clipping
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import (
    called,
    matrices_by_depth,
    rms_window,
    rows_named,
    window,
)
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import log10, median, middle, trailing_run
from trainvitals.wire import Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class ExplodingGradient(Rule):
    """The gradient becomes very large: through the layers, or from one step to the next.

    ## What it detects
    One of three cases. At initialisation: the standard deviation across samples grows by more than
    30 times from the first layer to the last, and the gradients are larger than their weights.
    Through depth: the gradient RMS of the first weight matrix is more than 300 times that of the
    last, and not only the last one's is small, while the loss does not fall. Over time: for three
    steps in a row, the total gradient norm is more than 100 times its earlier median and more than
    3 times the norm at the start.
    ## Why it matters
    One step along such a gradient changes the weights by a large amount. The loss then jumps or
    overflows, or units die.
    ## Evidence
    Which of the three cases, the growth and its limit, and the first step.
    ## What to do
    - Initialise with He or Xavier, so that every layer keeps the scale of its input.
    - Clip: `clip_grad_norm_(model.parameters(), 1.0)` between `backward()` and `step()`.
    - Add normalisation between the layers; lower the learning rate or lengthen its warm-up.
    ## When it is wrong
    Adam normalises the gradient, so a gradient that grows through depth can be harmless. This
    case is therefore a warning, and only while the loss does not fall.
    ## References
    Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", 2013,
    arXiv:1211.5063; Poole et al., "Exponential expressivity in deep neural networks through
    transient chaos", 2016, arXiv:1606.05340.
    """

    code: ClassVar[str] = "TV102"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    before_training: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV201", "TV202", "TV501", "TV806", "TV502", "TV503", "TV504", "TV601", "TV901"}
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.GRADIENT,)
    fix: ClassVar[str] = clipping(1.0)
    refuted_by: ClassVar[str] = (
        "The total gradient norm returns to its earlier level by itself and the loss falls."
    )

    gradient_ratio_max: float = threshold(
        300.0,
        "Gradient RMS of the first matrix relative to the last; fires above this value.",
    )
    before_share: float = threshold(
        0.3, "Share of the logarithm of that growth that must lie before the last matrix."
    )
    norm_growth_max: float = threshold(
        100.0, "Total gradient norm relative to its earlier median; fires above this value."
    )
    signal_growth_max: float = threshold(
        30.0, "Standard deviation across samples, last layer over first, at steps 0 to 3."
    )
    gradient_to_weight_max: float = threshold(
        1.0, "RMS of the gradient over RMS of the weight, median matrix, at steps 0 to 3."
    )
    observations: int = threshold(10, "Captured steps in the median, for growth through depth.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield at most one finding: the first of the three cases that applies."""
        course = Course(history)
        for case in (self._at_initialisation, self._over_time, self._through_depth):
            found = case(history, course)
            if found is not None:
                yield found
                return

    def _at_initialisation(self, history: History, course: Course) -> Finding | None:
        activations = history.places(Stream.ACTIVATION)
        rows = [r for _, r in sorted((p.depth, r) for r, p in enumerate(activations))]
        signal = window(history, Stream.ACTIVATION, Stat.SAMPLE_STD, rows, first=3)
        matrices = matrices_by_depth(history, Stream.GRADIENT)
        names = [history.places(Stream.GRADIENT)[row].name for row in matrices]
        weights = [row for row in rows_named(history, Stream.WEIGHT, names) if row is not None]
        early = len(signal.steps) > 0 and signal.steps[0] <= 3
        if not early or not matrices or len(weights) != len(matrices):
            return None
        spread = median(signal.values[:1])
        spread = spread[np.isfinite(spread) & (spread > 0)]
        gradient = median(rms_window(history, Stream.GRADIENT, matrices, first=3).values)
        weight = median(rms_window(history, Stream.WEIGHT, weights, first=3).values)
        if len(spread) < 2:
            return None
        growth = float(spread[-1] / spread[0])
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = middle(gradient / weight)
        if growth <= self.signal_growth_max or not relative > self.gradient_to_weight_max:
            return None
        # A loss that starts at 1e6 falls, and is far from where it could be.
        if course.learned() and not self._still_grows(history, rows):
            return None
        where = history.places(Stream.GRADIENT)[matrices[0]]
        return self.finding(
            severity=Severity.ERROR,
            where=where.name,
            since_step=int(signal.steps[0]),
            summary=(
                "Exploding gradients at initialisation: the standard deviation across samples is "
                f"{times(growth)} larger in the last layer than in the first, and the gradients "
                f"are {times(relative)} as large as the weights."
            ),
            evidence=(
                Evidence(
                    quantity="standard deviation across samples, last layer relative to first",
                    seen=growth,
                    limit=self.signal_growth_max,
                    direction="above",
                    healthy=(0.1, 10.0),
                ),
                Evidence(
                    quantity="gradient RMS relative to weight RMS",
                    seen=relative,
                    limit=self.gradient_to_weight_max,
                    direction="above",
                    healthy=(None, 0.1),
                ),
            ),
            # Measured before any update: the initialisation is the cause, not the learning rate.
            stage=Stage.INITIALISATION,
            fix=INITIALISE,
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    def _still_grows(self, history: History, rows: list[int]) -> bool:
        """Whether the signal grows beyond the limit in the newest captured steps too."""
        newest = median(window(history, Stream.ACTIVATION, Stat.SAMPLE_STD, rows, last=5).values)
        newest = newest[np.isfinite(newest) & (newest > 0)]
        return len(newest) > 1 and bool(newest[-1] > self.signal_growth_max * newest[0])

    def _over_time(self, history: History, _: Course) -> Finding | None:
        norm = history.scalar(Scalar.GRADIENT_NORM).last(256)
        if len(norm) < 19:
            return None
        now, before = norm.values[-3:], norm.values[:-3]
        base = middle(before[np.isfinite(before)][-64:])
        start = middle(history.scalar(Scalar.GRADIENT_NORM).finite().values[:16])
        limit = max(self.norm_growth_max * base, 3 * start)
        if not (base > 0 and (now > limit).all()):
            return None
        run = int(trailing_run(norm.values > limit))
        step, size = int(norm.steps[-run]), float(now[-1])
        return self.finding(
            severity=Severity.ERROR,
            since_step=step,
            summary=(
                f"Exploding gradient: the total gradient norm is {number(size)}, "
                f"{times(size / base)} its median before step {step}."
            ),
            evidence=(
                Evidence(
                    quantity="total gradient norm",
                    seen=size,
                    limit=limit,
                    direction="above",
                    healthy=(0.1 * base, 10 * base),
                    text=f"{self.norm_growth_max:g} × the earlier median, at least 3 × the norm "
                    "at the start",
                    statistic=Scalar.GRADIENT_NORM,
                ),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.GRADIENT_NORM,
        )

    def _through_depth(self, history: History, course: Course) -> Finding | None:
        rows = matrices_by_depth(history, Stream.GRADIENT)
        if len(rows) < 3 or course.converged or course.learned():
            return None
        seen = rms_window(history, Stream.GRADIENT, rows, first=self.observations, last=64)
        if len(seen.steps) < self.observations:
            return None
        logs = log10(seen.values)
        ratio = logs[:, 0] - logs[:, -1]
        recent = middle(ratio[-self.observations :])
        # A last layer without any gradient is no reference.
        if not recent > math.log10(self.gradient_ratio_max) or logs[-1, -1] < -30:
            return None
        # A head beside others, with a small weight in the loss: no gradient has grown through it.
        before = middle((logs[:, 0] - logs[:, -2])[-self.observations :])
        if before < self.before_share * recent:
            return None
        run = max(1, int(trailing_run(ratio > math.log10(self.gradient_ratio_max))))
        place = history.places(Stream.GRADIENT)[rows[0]]
        return self.finding(
            severity=Severity.WARNING,
            where=place.name,
            since_step=int(seen.steps[-run]),
            summary=(
                f"Exploding gradient: the gradient of {called(place)}, the first, is "
                f"{times(10**recent)} larger than the last layer's."
            ),
            evidence=(
                Evidence(
                    quantity="gradient RMS, first layer relative to last",
                    seen=10**recent,
                    limit=self.gradient_ratio_max,
                    direction="above",
                    healthy=(0.01, 100.0),
                ),
            ),
            confidence=0.7,
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    @staticmethod
    def sick() -> History:
        """Return a norm that rises by five orders of magnitude and stays there."""
        return _norms([1.0] * 80 + [1e5, 2e5, 4e5, 8e5])

    @staticmethod
    def healthy() -> History:
        """Return a spike of one step of the same size."""
        return _norms([1.0] * 80 + [1e5] + [1.0] * 3)


def _norms(norms: list[float]) -> History:
    places = [
        Place(f"{i}.weight", kind="weight", shape=(8, 8), depth=i, module=str(i)) for i in range(4)
    ]
    return (
        Example(len(norms))
        .scalars(gradient_norm=norms, loss=np.linspace(2, 1, len(norms)))
        .stream(Stream.GRADIENT, places, {p.name: {Stat.L2: norms} for p in places})
        .history
    )
