"""TV101: gradients shrink on their way back to the first layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.finding import Finding, Severity
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import (
    layer_of,
    matrices_by_depth,
    rms_window,
    rows_named,
    window,
)
from trainvitals.diagnosis.rule import Rule, Stage, threshold
from trainvitals.diagnosis.signals import Floats, log10, median, trailing_run
from trainvitals.wire import Place, Stat, Stream

STUCK_STEPS = 60
"""Before that, a loss that has not fallen means nothing."""


@dataclass(frozen=True)
class VanishingGradient(Rule):
    """The gradient shrinks so much on its way back that the first layers do not learn.

    ## What it detects
    The RMS of the first weight matrix's gradient is more than four orders of magnitude below the
    last one's, and the first layer hardly moves: its update ratio is below 1e-6, or the loss does
    not fall. Medians over the newest captured steps; RMS, so that a layer's size plays no role.
    ## Why it matters
    Each layer multiplies the gradient by its weights and by the slope of its nonlinearity. Where
    that product is below 1 the first layers get nothing: they stay random, and the last layers
    learn from random features, whatever the optimizer.
    ## Evidence
    log10 of the ratio of gradient RMS, first layer to last (healthy: −2 to 2), the first layer's
    update ratio, and the layer at which the gradient falls most.
    ## What to do
    - Replace sigmoid and tanh between layers by ReLU or GELU: a sigmoid's slope is at most 1/4.
    - Initialise for the nonlinearity: He for ReLU, Xavier for tanh.
    - Put LayerNorm or BatchNorm between the layers, or residual connections around them.
    ## When it is wrong
    In the steps after a head was replaced or initialised with zeros the first layers get little
    gradient for a moment; the rule waits for a median over ten steps and leaves out branches
    that start at zero.
    ## References
    Hochreiter, "Untersuchungen zu dynamischen neuronalen Netzen", 1991; Glorot & Bengio,
    "Understanding the difficulty of training deep feedforward neural networks", 2010; Schoenholz
    et al., "Deep Information Propagation", 2017, arXiv:1611.01232.
    """

    code: ClassVar[str] = "TV101"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    fix: ClassVar[str] = "nn.Sequential(nn.Linear(n, n), nn.LayerNorm(n), nn.ReLU())"
    refuted_by: ClassVar[str] = (
        "The first layer's weights move (update ratio above 1e-5) and the loss falls."
    )

    log_ratio_min: float = threshold(
        -4.0, "log10 of gradient RMS, first matrix to last, below which it has vanished."
    )
    update_ratio_max: float = threshold(
        1e-6, "RMS(ΔW)/RMS(W) of the first matrix below which it does not learn."
    )
    observations: int = threshold(10, "Captured steps whose median counts.")

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
        if not self._fades(logs):
            return
        ratio = float(logs[0] - logs[-1])
        update = self._update_ratio(history, places[0].name)
        stuck = len(course.loss) >= STUCK_STEPS and course.known and not course.learned()
        if update >= self.update_ratio_max and not stuck:
            return
        # In half decades and, where it was so already, at the start: noise must not move the
        # finding from layer to layer.
        early = log10(median(seen.values[: self.observations]))
        drops = np.round(2 * np.diff(early if self._fades(early) else logs)) / 2
        worst = int(np.nanargmax(drops))
        faded = log10(seen.values[:, 0]) - log10(seen.values[:, -1]) < self.log_ratio_min
        run = max(1, int(trailing_run(faded)))
        yield self.finding(
            severity=Severity.ERROR if stuck else Severity.WARNING,
            where=places[worst].name,
            since_step=int(seen.steps[-run]),
            summary=(
                f"The gradient of {layer_of(places[0])} is 10^{-ratio:.1f} times smaller than that "
                f"of {layer_of(places[-1])}; it falls most at {layer_of(places[worst])}."
            ),
            evidence={
                "log10_gradient_first_to_last": ratio,
                "log_ratio_min": self.log_ratio_min,
                "healthy_range": "-2 to 2",
                "first_update_ratio": update,
                "update_ratio_max": self.update_ratio_max,
                "layers": float(len(rows)),
            },
            confidence=0.95 if stuck else 0.8,
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    def _fades(self, logs: Floats) -> bool:
        # A gradient that is exactly zero is cut off (a dead layer, a detach), not faded, unless
        # what is left above zero fades as well, down to where float32 ends.
        alive = logs[logs > -44]
        if len(alive) < 3:
            return False
        return bool(
            logs[0] - logs[-1] < self.log_ratio_min and alive[0] - alive[-1] < self.log_ratio_min
        )

    def _update_ratio(self, history: History, name: str) -> float:
        row = rows_named(history, Stream.UPDATE, [name])[0]
        if row is None:
            return 0.0
        seen = window(history, Stream.UPDATE, Stat.RATIO, [row], last=self.observations)
        ratio = float(median(seen.values)[0]) if len(seen.steps) else 0.0
        return 0.0 if np.isnan(ratio) else ratio

    @staticmethod
    def sick() -> History:
        """Return fifteen sigmoid layers: each takes 60 % of a decade."""
        return _stack(slope=0.6, update=1e-9, loss=[0.7] * 80)

    @staticmethod
    def healthy() -> History:
        """Return the same depth, losing a tenth of a decade a layer, and learning."""
        return _stack(slope=0.1, update=1e-3, loss=list(np.linspace(0.7, 0.2, 80)))


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
