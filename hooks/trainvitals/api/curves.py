"""The structs of curves and heat-maps. Users import them from `schema`."""

from __future__ import annotations

import msgspec

Numbers = list[float | None]


class Curve(msgspec.Struct, frozen=True):
    """The values of one place in buckets of steps; buckets without a measurement are left out."""

    place: str
    step: list[int] = []
    """First step of each bucket."""
    last_step: list[int] = []
    min: Numbers = []
    mean: Numbers = []
    max: Numbers = []
    last: Numbers = []
    nonfinite: list[int] = []
    """Infinite values in each bucket."""
    count: list[int] = []
    """Finite values in each bucket."""


class Series(msgspec.Struct, frozen=True):
    """Curves of one statistic."""

    stream: str
    statistic: str
    series: list[Curve]


class Heatmap(msgspec.Struct, frozen=True):
    """Means over finite values: one row per place, by depth; one column per bucket of steps."""

    stream: str
    statistic: str
    places: list[str]
    steps: list[int]
    values: list[Numbers]
