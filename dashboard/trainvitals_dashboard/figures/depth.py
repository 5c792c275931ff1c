"""A statistic of each layer at one time, in order of depth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from trainvitals.api.schema import Heatmap, Place


def newest_by_place(data: Heatmap) -> dict[str, float]:
    """Return the newest mean of each place that has a value, in order of depth."""
    newest = {}
    for place, row in zip(data.places, data.values, strict=True):
        value = next((v for v in reversed(row) if v is not None), None)
        if value is not None:
            newest[place] = value
    return newest


def per_entry(norms: Mapping[str, float], places: Mapping[str, Place]) -> dict[str, float]:
    """Return the RMS of each weight matrix from its L2 norm, which grows with the size."""
    return {
        name: norm / math.sqrt(math.prod(places[name].shape))
        for name, norm in norms.items()
        if name in places and len(places[name].shape) > 1 and math.prod(places[name].shape) > 0
    }


def endings(names: Sequence[str]) -> list[str]:
    """Return for each name its shortest dotted ending that no other name has.

    `encoder.layers.0.linear1` is `0.linear1` beside `encoder.layers.1.linear1`. A name that is the
    ending of another one is kept whole, and so is a name that is there twice.
    """
    parts = [name.split(".") for name in names]
    count = Counter(".".join(p[i:]) for p in parts for i in range(len(p)))
    return [
        next((end for end in _from_the_end(p) if count[end] == 1), name)
        for name, p in zip(names, parts, strict=True)
    ]


def _from_the_end(parts: Sequence[str]) -> list[str]:
    return [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
