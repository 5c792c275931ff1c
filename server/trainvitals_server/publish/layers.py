"""Extract the newest values of the layers of a run that need attention most, for Prometheus.

Comes in: a History, from a diagnosis round.
Goes out: `Layer`s, worst first, and their number before the cut.
Promise:  pure; at most LAYERS_MAX layers; a value that was not measured or is not finite is None.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream

LAYERS_MAX: Final = 20
"""Maximum number of layers of one run with their own series."""
HEALTHY_RATIO: Final = 1e-3
"""A healthy RMS(update)/RMS(weight). Source: Karpathy, "makemore part 3", 2022."""


@dataclass(frozen=True)
class Layer:
    """The newest values of one weight tensor."""

    name: str
    weight_rms: float | None = None
    gradient_rms: float | None = None
    """NaN when an entry of the gradient was not finite."""
    update_ratio: float | None = None

    @property
    def badness(self) -> float:
        """Return how far the layer is from healthy: infinite for a non-finite or zero gradient.

        Otherwise the distance of its update ratio from 1e-3 in decades; −1 when it is unknown.
        """
        if self.gradient_rms is not None and not self.gradient_rms > 0:
            return math.inf
        if self.update_ratio is None:
            return -1.0
        if self.update_ratio <= 0:
            return math.inf
        return abs(math.log10(self.update_ratio / HEALTHY_RATIO))


@dataclass(frozen=True)
class Layers:
    """The worst layers of a run."""

    worst: tuple[Layer, ...] = ()
    left_out: int = 0
    gradient_spread: float | None = None
    """Largest gradient RMS of a weight tensor divided by the smallest; None with fewer than two."""


def layers_of(history: History) -> Layers:
    """Return the worst LAYERS_MAX weight tensors of `history`, and how many others there are."""
    weights = _newest_rms(history, Stream.WEIGHT)
    gradients = _newest_rms(history, Stream.GRADIENT)
    ratios = _newest(history, Stream.UPDATE, Stat.RATIO)
    names = dict.fromkeys((*weights, *gradients, *ratios))
    layers = [Layer(n, weights.get(n), gradients.get(n), ratios.get(n)) for n in names]
    layers.sort(key=lambda layer: -layer.badness)  # stable: equal ones keep the model's order
    live = [rms for rms in gradients.values() if rms > 0]
    return Layers(
        tuple(layers[:LAYERS_MAX]),
        max(0, len(layers) - LAYERS_MAX),
        max(live) / min(live) if len(live) > 1 else None,
    )


def _newest(history: History, stream: Stream, statistic: Stat) -> dict[str, float]:
    """Return weight tensor → the newest finite value."""
    if not len(history.steps(stream)):
        return {}
    row = history.values(stream, statistic)[-1]
    places = history.places(stream)
    pairs = zip(places, row.tolist(), strict=True)
    return {p.name: v for p, v in pairs if p.kind == "weight" and math.isfinite(v)}


def _newest_rms(history: History, stream: Stream) -> dict[str, float]:
    """Return weight tensor → L2/√count, NaN when an entry was not finite."""
    norms = _newest(history, stream, Stat.L2)
    bad = _newest(history, stream, Stat.NONFINITE)
    counts = {place.name: float(np.prod(place.shape)) for place in history.places(stream)}
    return {
        name: math.nan if bad.get(name, 0) > 0 else norm / math.sqrt(max(counts[name], 1.0))
        for name, norm in norms.items()
    }
