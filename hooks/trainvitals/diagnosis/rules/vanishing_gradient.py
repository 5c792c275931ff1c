"""TV101: the gradient becomes very small from the last layer to the first."""

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
from trainvitals.diagnosis.fixes import INITIALISE, RELU_FOR_SIGMOID
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import (
    called,
    matrices_by_depth,
    rms_window,
    rows_named,
    window,
)
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, log10, median, trailing_run
from trainvitals.wire import Place, Stat, Stream

STUCK_STEPS = 60
"""Minimum number of steps before a loss that has not fallen is evidence."""


@dataclass(frozen=True)
class VanishingGradient(Rule):
    """The gradient becomes so small in the backward pass that the first layers do not learn.

    ## What it detects
    The gradient RMS of the first weight matrix is more than four orders of magnitude below that of
    the last, and the first layer hardly changes: its update ratio is below 1e-6, or the loss does
    not fall. Medians over the newest captured steps; RMS does not depend on a layer's size.
    ## Why it matters
    Each layer multiplies the gradient by its weights and by the derivative of its nonlinearity. If
    this product is below 1 in many layers, the first layers get almost no gradient: they keep
    their random values, and the last layers learn from random features.
    ## Evidence
    The gradient RMS of the first layer relative to the last (healthy: 0.01 to 100), the first
    layer's update ratio or the loss that does not fall, and the layer with the largest drop.
    ## What to do
    - Replace sigmoid and tanh between layers with ReLU or GELU: the derivative of a sigmoid is at
      most 1/4.
    - Initialise for the nonlinearity: He for ReLU, Xavier for tanh.
    - Add LayerNorm or BatchNorm between the layers, or residual connections around them.
    ## When it is wrong
    For some steps after the last layer was replaced or initialised with zeros, the first layers
    get little gradient; the median over ten steps excludes shorter periods.
    ## References
    Hochreiter, "Untersuchungen zu dynamischen neuronalen Netzen", 1991; Glorot & Bengio,
    "Understanding the difficulty of training deep feedforward neural networks", 2010; Schoenholz
    et al., "Deep Information Propagation", 2017, arXiv:1611.01232.
    """

    code: ClassVar[str] = "TV101"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    before_training: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV501", "TV507", "TV806", "TV502", "TV602", "TV603", "TV701"}
    )
    needs: ClassVar[tuple[Need, ...]] = (
        Stream.GRADIENT,
        Stream.UPDATE,
    )
    fix: ClassVar[str] = INITIALISE
    refuted_by: ClassVar[str] = (
        "The loss falls as fast as with a normalisation layer between the layers."
    )

    gradient_ratio_min: float = threshold(
        1e-4,
        "Gradient RMS of the first matrix relative to the last; fires below this value.",
    )
    update_ratio_min: float = threshold(
        1e-6, "RMS(ΔW)/RMS(W) of the first weight matrix; below this value it does not learn."
    )
    observations: int = threshold(10, "Captured steps in the median.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the layer with the largest drop."""
        course = Course(history)
        rows = matrices_by_depth(history, Stream.GRADIENT)
        if len(rows) < 3 or course.converged:
            return
        seen = rms_window(history, Stream.GRADIENT, rows, first=self.observations, last=64)
        places = [history.places(Stream.GRADIENT)[row] for row in rows]
        logs = log10(median(seen.values[-self.observations :]))
        logs[np.isnan(median(seen.values[-self.observations :]))] = np.nan
        if len(seen.steps) < self.observations or np.isnan(logs[[0, -1]]).any():
            return
        if not self._vanishes(logs):
            return
        ratio = float(logs[0] - logs[-1])
        update = self._update_ratio(history, places[0].name)
        stuck = len(course.loss) >= STUCK_STEPS and course.known and not course.learned()
        if update >= self.update_ratio_min and not stuck:
            return
        # Round the drops to half decades, and use the first steps if the gradient vanished there
        # too: otherwise noise moves the finding from layer to layer.
        early = log10(median(seen.values[: self.observations]))
        drops = np.round(2 * np.diff(early if self._vanishes(early) else logs)) / 2
        worst = int(np.nanargmax(drops))
        below = log10(seen.values[:, 0]) - log10(seen.values[:, -1]) < math.log10(
            self.gradient_ratio_min
        )
        run = max(1, int(trailing_run(below)))
        yield self.finding(
            severity=Severity.ERROR if stuck else Severity.WARNING,
            where=places[worst].name,
            since_step=int(seen.steps[-run]),
            summary=(
                f"Vanishing gradient: the gradient of {called(places[0])}, the first, is "
                f"{times(10**-ratio)} smaller than that of {called(places[-1])}, the last; the "
                f"largest drop is at {called(places[worst])}."
            ),
            evidence=(
                Evidence(
                    quantity="gradient RMS, first layer relative to last",
                    seen=10**ratio,
                    limit=self.gradient_ratio_min,
                    direction="below",
                    healthy=(0.01, 100.0),
                ),
                self._movement(update, course),
                Evidence(quantity="weight matrices compared", seen=float(len(rows))),
            ),
            fix=RELU_FOR_SIGMOID if _sigmoids(history) else None,
            confidence=0.95 if stuck else 0.8,
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    def _movement(self, update: float, course: Course) -> Evidence:
        """Return the effect of the small gradient: no update, or a loss that does not fall."""
        if update < self.update_ratio_min:
            return Evidence(
                quantity="update ratio of the first layer",
                seen=update,
                limit=self.update_ratio_min,
                direction="below",
                healthy=(1e-5, 0.1),
            )
        return Evidence(
            quantity="loss now",
            seen=course.shown(course.now()),
            text=f"{number(course.shown(course.initial), 4)} at the start; it has not fallen",
        )

    def _vanishes(self, logs: Floats) -> bool:
        """Whether the first entry is below the limit relative to the last; logs to base 10."""
        # A gradient of exactly zero is blocked (a dead layer, a detach) and does not count, unless
        # the nonzero gradients vanish too, down to the smallest float32.
        limit = math.log10(self.gradient_ratio_min)
        alive = logs[logs > -44]
        if len(alive) < 3:
            return False
        return bool(logs[0] - logs[-1] < limit and alive[0] - alive[-1] < limit)

    def _update_ratio(self, history: History, name: str) -> float:
        row = rows_named(history, Stream.UPDATE, [name])[0]
        if row is None:
            return 0.0
        seen = window(history, Stream.UPDATE, Stat.RATIO, [row], last=self.observations)
        ratio = float(median(seen.values)[0]) if len(seen.steps) else 0.0
        return 0.0 if np.isnan(ratio) else ratio

    @staticmethod
    def sick() -> History:
        """Return fifteen sigmoid layers that each reduce the gradient by 0.6 decades."""
        return _stack(slope=0.6, update=1e-9, loss=[0.7] * 80)

    @staticmethod
    def healthy() -> History:
        """Return fifteen layers that each reduce the gradient by 0.1 decades; the loss falls."""
        return _stack(slope=0.1, update=1e-3, loss=list(np.linspace(0.7, 0.2, 80)))


def _sigmoids(history: History) -> bool:
    """Whether at least three modules are sigmoids: their slope, 1/4 at most, shrinks gradients."""
    return sum(p.kind == "Sigmoid" for p in history.places(Stream.ACTIVATION)) >= 3


def _stack(slope: float, update: float, loss: list[float]) -> History:
    layers = 15
    places = [
        Place(f"{i}.weight", kind="weight", shape=(10, 10), depth=i, module=str(i))
        for i in range(layers)
    ]
    gradients = {
        p.name: {Stat.L2: 10 * 1e-2 * 10 ** (-slope * (layers - 1 - i))}
        for i, p in enumerate(places)
    }
    updates = {p.name: {Stat.RATIO: update} for p in places}
    return (
        Example(len(loss))
        .scalars(loss=loss)
        .stream(Stream.GRADIENT, places, gradients)
        .stream(Stream.UPDATE, places, updates)
        .history
    )
