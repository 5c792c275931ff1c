"""The structs of layouts, curves and heat-maps. Users import them from `schema`."""

from __future__ import annotations

import msgspec

from trainvitals.wire import Place

Numbers = list[float | None]


class Curve(msgspec.Struct, frozen=True):
    """The values of one place in buckets of steps; buckets without a measurement are left out.

    `min`, `mean`, `max` and `last` are over the finite values, in float32; each is empty if it was
    not asked for.
    """

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
    """Means over finite values: one row per place, by depth; one column per bucket of steps.

    The rows are blocks of the network (`trainvitals.api.blocks`) if they were asked for; the value
    of a block is the median of its places, or the largest for `nonfinite`.
    """

    stream: str
    statistic: str
    places: list[str]
    """The place or block of each row."""
    steps: list[int]
    """First step of each column."""
    values: list[Numbers]
    last_steps: list[int] = []
    """Last step of each column."""
    nonfinite: list[list[int]] = []
    """Of each row, the columns with at least one infinite value."""
    low: float | None = None
    """Smallest value of the places that were read; null if none has a value."""
    high: float | None = None
    """Largest value of the places that were read."""
    least_positive: float | None = None
    """Smallest value above 0 of the places that were read."""


class LatestValues(msgspec.Struct, frozen=True):
    """The newest value of each series of one stream; null: none in its newest steps."""

    stream: str
    statistics: list[str]
    places: list[str]
    values: list[Numbers]
    """One row per place, one column per statistic. Infinite values are null too."""
    steps: list[list[int]]
    """The step of each value; −1 without a value."""


class Latest(msgspec.Struct, frozen=True):
    """The newest value of every series of a run."""

    streams: list[LatestValues]


class Layout(msgspec.Struct, frozen=True):
    """The rows and columns of one stream."""

    stream: str
    statistics: tuple[str, ...]
    places: tuple[Place, ...]


class Layouts(msgspec.Struct, frozen=True):
    """The newest layout of each stream."""

    streams: list[Layout]

    def of(self, stream: str) -> Layout | None:
        """Return the layout of `stream`, None when it is not measured."""
        return next((layout for layout in self.streams if layout.stream == stream), None)
