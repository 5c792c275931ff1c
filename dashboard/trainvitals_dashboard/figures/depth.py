"""A statistic of each layer at one time, in order of depth."""

from __future__ import annotations

import math
from collections.abc import Mapping

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
