"""Extract the newest values of the layers of a run that need attention most, for Prometheus.

Comes in: a History, from a diagnosis round.
Goes out: `Layer`s and blocks of them, worst first, and their numbers before the cut.
Promise:  pure; at most LAYERS_MAX layers and as many blocks; a value that was not measured or is
          not finite is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from trainvitals.api.blocks import blocks_of
from trainvitals.diagnosis.history import History
from trainvitals.wire import Place, Stat, Stream

LAYERS_MAX: Final = 20
"""Maximum number of layers of one run with their own series, and of blocks."""
Detail = Literal["run", "group", "layer"]
"""What has series: the run only, also its blocks, or also its layers."""
HEALTHY_RATIO: Final = 1e-3
"""A healthy RMS(update)/RMS(weight). Source: Karpathy, "makemore part 3", 2022."""


@dataclass(frozen=True)
class Layer:
    """The newest values of one weight tensor, or of all weight tensors of a block."""

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
    blocks: tuple[Layer, ...] = ()
    blocks_left_out: int = 0

    def at(self, detail: Detail) -> Layers:
        """Return the values that have series with this detail."""
        if detail == "layer":
            return replace(self, blocks=(), blocks_left_out=0)
        layers = replace(self, worst=(), left_out=0)
        return layers if detail == "group" else replace(layers, blocks=(), blocks_left_out=0)


def layers_of(history: History) -> Layers:
    """Return the worst LAYERS_MAX weight tensors and blocks, and how many others there are."""
    weights = _newest_rms(history, Stream.WEIGHT)
    gradients = _newest_rms(history, Stream.GRADIENT)
    ratios = _newest(history, Stream.UPDATE, Stat.RATIO)
    names = dict.fromkeys((*weights, *gradients, *ratios))
    layers = [Layer(n, weights.get(n), gradients.get(n), ratios.get(n)) for n in names]
    blocks = _blocks(layers, _counts(history))
    for each in (layers, blocks):
        each.sort(key=lambda layer: -layer.badness)  # stable: equal ones keep the model's order
    live = [rms for rms in gradients.values() if rms > 0]
    return Layers(
        tuple(layers[:LAYERS_MAX]),
        max(0, len(layers) - LAYERS_MAX),
        max(live) / min(live) if len(live) > 1 else None,
        tuple(blocks[:LAYERS_MAX]),
        max(0, len(blocks) - LAYERS_MAX),
    )


def _blocks(layers: Sequence[Layer], counts: Mapping[str, float]) -> list[Layer]:
    """Return the blocks of the model (`block_of`) with the values of all their weights."""
    by_name = {layer.name: layer for layer in layers}
    return [
        _block(block, [by_name[name] for name in names], counts)
        for block, names in blocks_of(by_name).items()
    ]


def _block(name: str, layers: Sequence[Layer], counts: Mapping[str, float]) -> Layer:
    """Return the values of one block, as if its weights were one tensor."""

    def rms(pairs: Sequence[tuple[str, float | None]]) -> float | None:
        total = squares = 0.0
        for tensor, value in pairs:
            if value is not None:
                total += counts[tensor]
                squares += counts[tensor] * value * value
        return math.sqrt(squares / total) if total else None

    both = [
        (layer.name, layer.weight_rms, layer.update_ratio)
        for layer in layers
        if layer.weight_rms is not None and layer.update_ratio is not None
    ]
    weight = rms([(tensor, w) for tensor, w, _ in both])
    update = rms([(tensor, w * ratio) for tensor, w, ratio in both])
    return Layer(
        name,
        rms([(layer.name, layer.weight_rms) for layer in layers]),
        rms([(layer.name, layer.gradient_rms) for layer in layers]),
        update / weight if update is not None and weight else None,
    )


def _counts(history: History) -> dict[str, float]:
    """Return weight tensor → number of its entries, at least 1."""
    streams = (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE)
    weights = (p for stream in streams for p in history.places(stream) if p.kind == "weight")
    return {place.name: _count(place) for place in weights}


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
    places, rows = history.places(stream), history.rows(stream)
    return {
        name: math.nan if bad.get(name, 0) > 0 else norm / math.sqrt(_count(places[rows[name]]))
        for name, norm in norms.items()
    }


def _count(place: Place) -> float:
    return max(1.0, float(math.prod(place.shape)))
