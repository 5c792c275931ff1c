"""Propagation of the signal and of the gradient through a model before its training.

Comes in: the history of some passes. Goes out: one row per hidden layer, and the factors per layer.
Source: Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232: ln S over the
depth is a line of slope ln √χ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from trainvitals.api.schema import PropagatedLayer
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import window
from trainvitals.diagnosis.signals import Floats, median
from trainvitals.wire import Place, Stat, Stream

LAYERS_MIN: Final = 3
"""Minimum number of layers for a factor per layer."""
FAILURE: Final = math.log(1e3)
DEPTH_MAX: Final = 1000
FRAMES: Final = 4
"""Number of first frames whose median is taken."""


def propagation(history: History) -> tuple[PropagatedLayer, ...]:
    """Return the measured modules in the order of the forward pass, each call site once."""
    places = history.places(Stream.ACTIVATION)
    rows = sorted((p.depth, i) for i, p in enumerate(places) if p.kind != "Embedding")
    at = [i for _, i in rows]
    signal, spread = (
        _first(history, Stream.ACTIVATION, stat, at)
        for stat in (Stat.SAMPLE_STD, Stat.UNIT_MEAN_STD)
    )
    gradients = _gradients(history)
    return tuple(
        PropagatedLayer(
            depth=places[i].depth,
            layer=places[i].name,
            S=float(s),
            M=float(m) if math.isfinite(m) else None,
            gradient_rms=gradients.get(places[i].module),
        )
        for i, s, m in zip(at, signal, spread, strict=True)
        if math.isfinite(s)
    )


def chi_of(values: Sequence[float]) -> float | None:
    """Return the factor of the square of `values` per layer; None for fewer than three layers.

    `values` are positive and in the order of the layers; zeros and non-finite values are left out.
    """
    x = np.array(values, float)
    known = np.flatnonzero(np.isfinite(x) & (x > 0))
    if len(known) < LAYERS_MIN:
        return None
    slopes = [
        (math.log(x[b]) - math.log(x[a])) / (b - a)
        for at, a in enumerate(known)
        for b in known[at + 1 :]
    ]
    return math.exp(2 * float(np.median(slopes)))  # Theil–Sen: a single odd layer does not count


def depth_of_failure(chi: float | None) -> int | None:
    """Return after how many layers the signal changes a thousandfold; None for more than 1,000."""
    if chi is None or chi <= 0 or chi == 1:
        return None
    layers = FAILURE / abs(math.log(chi) / 2)
    return math.ceil(layers) if layers <= DEPTH_MAX else None


def weighted(layers: Sequence[PropagatedLayer]) -> list[PropagatedLayer]:
    """Return the layers with a weight: the factor per layer refers to them."""
    return [layer for layer in layers if layer.gradient_rms is not None]


def _gradients(history: History) -> dict[str, float]:
    """Return module → RMS of the gradient of its weight matrix."""
    places = history.places(Stream.GRADIENT)
    rows = [i for i, p in enumerate(places) if p.kind == "weight" and len(p.shape) > 1]
    norms = _first(history, Stream.GRADIENT, Stat.L2, rows)
    return {
        places[i].module: float(norm) / math.sqrt(_count(places[i]))
        for i, norm in zip(rows, norms, strict=True)
        if math.isfinite(norm)
    }


def _count(place: Place) -> int:
    return max(1, math.prod(place.shape))


def _first(history: History, stream: Stream, statistic: Stat, rows: Sequence[int]) -> Floats:
    values = window(history, stream, statistic, rows, first=FRAMES).values
    return median(values) if len(values) else np.full(len(rows), np.nan)
