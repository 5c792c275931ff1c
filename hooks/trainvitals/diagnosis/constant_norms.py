"""Normalisation layers whose result is the same for every input.

Comes in: a history. Goes out: places.
Promise:  pure.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import rms_window, rows_named, window
from trainvitals.wire import Place, Stat, Stream

_KINDS: Final = ("LayerNorm", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")
_ROUNDED: Final = 1e-3
"""Standard deviation of the outputs, relative to the scale: rounding of x − x, divided by √ε."""


def constant_norm(history: History, observations: int) -> Place | None:
    """Return the first such layer: its first outputs are all equal, its inputs differ.

    A norm over a single value returns its bias. One whose scale is 0 is left out: many residual
    branches begin so.
    """
    places = history.places(Stream.ACTIVATION)
    order = sorted((p.depth, row) for row, p in enumerate(places) if p.depth >= 0)
    for (_, before), (_, row) in pairwise(order):
        if places[row].kind not in _KINDS:
            continue
        inputs, outputs = (
            window(history, Stream.ACTIVATION, s, [r], first=observations).values[:, 0]
            for s, r in ((Stat.SAMPLE_STD, before), (Stat.STD, row))
        )
        weight = rows_named(history, Stream.WEIGHT, [f"{places[row].name}.weight"])
        known = [r for r in weight if r is not None]
        scale = rms_window(history, Stream.WEIGHT, known, first=1).values
        limit = _ROUNDED * (float(scale[0, 0]) if scale.size else 1.0)
        if len(inputs) == observations and (inputs > 0).all() and (outputs < limit).all():
            return places[row]
    return None
