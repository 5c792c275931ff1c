"""Write a heat map to a temporary file, a few hundred places at a time.

Comes in: slices of curves. Goes out: a file with the JSON of `schema.Heatmap`, or with an Arrow
          stream (arrow.py).
Promise:  memory does not grow with the number of places: a map of 20,000 places × 400 columns has
          8 million numbers, which would take 256 MB as Python floats. A map by block has one slice
          of places in memory, which is at least as large as the largest block.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

import msgspec
import numpy as np
import numpy.typing as npt

from trainvitals.api.blocks import blocks_of
from trainvitals.wire import Stat
from trainvitals_server.store.series import Curves
from trainvitals_server.store.tiers import Floats, Steps

PLACES_AT_ONCE: Final = 512
_SPOOLED_BYTES: Final = 2**20
"""Larger files are on disk."""
_CHUNK_BYTES: Final = 64 * 1024
_encode = msgspec.json.encode
Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """A row of a heat map: one place, or the places that are merged into it."""

    name: str
    places: Sequence[str]


def rows_of_places(wanted: Sequence[str], every: Sequence[str]) -> list[Row]:
    """Return the rows of places and of modules; "encoder." is the module "encoder".

    The places of a module are those of `every` that are the module or inside it. A module without
    any is the row of one place with the name of the module, which the store does not know.
    """
    return [
        Row(name, _inside(name[:-1], every) or [name[:-1]])
        if name.endswith(".")
        else Row(name, [name])
        for name in wanted
    ]


def _inside(module: str, every: Sequence[str]) -> list[str]:
    return [name for name in every if name == module or name.startswith(f"{module}.")]


def rows_of_blocks(wanted: Sequence[str]) -> list[Row]:
    """Return one row per block of the network."""
    return [Row(block, members) for block, members in blocks_of(wanted).items()]


def slices_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows in slices of at most PLACES_AT_ONCE places; a larger slice is one row."""
    slices: list[list[Row]] = []
    known: set[str] = set()
    for row in rows:
        known = known.union(row.places)
        if slices and len(known) <= PLACES_AT_ONCE:
            slices[-1].append(row)
        else:
            slices.append([row])
            known = set(row.places)
    return slices


def places_of(rows: Sequence[Row]) -> list[str]:
    """Return the places of a slice, each once."""
    return list(dict.fromkeys(place for row in rows for place in row.places))


@dataclass(frozen=True)
class MapRows:
    """Some rows of a heat map: places, modules or blocks. All numbers are float32, or NaN.

    `low`, `high` and `least_positive`, shape (rows,), are over the places of each row.
    """

    names: list[str]
    steps: Steps
    """First step of each column."""
    last_steps: Steps
    values: Floats32
    """Shape (rows, columns)."""
    infinite: npt.NDArray[np.bool_]
    """Whether a cell contains an infinite value, shape (rows, columns)."""
    low: Floats32
    high: Floats32
    least_positive: Floats32


def rows_of(
    statistic: str, curves: Iterator[Curves], slices: Iterable[Sequence[Row]]
) -> Iterator[MapRows]:
    """Yield the rows of each slice from the curves of its places."""
    # The median of counts is 0 while fewer than half of the tensors are affected.
    merge = largest if statistic == Stat.NONFINITE else median
    for found, rows in zip(curves, slices, strict=True):
        yield _merged(found, rows, merge)


def _merged(found: Curves, rows: Sequence[Row], merge: Callable[[Floats], Floats]) -> MapRows:
    spans = found.spans
    at = {place: column for column, place in enumerate(found.places)}
    groups = [[at[place] for place in row.places] for row in rows]
    means = spans.mean.T.astype(np.float32)
    infinite = spans.infinite.T > 0
    low, high, positive = _extremes(means)
    return MapRows(
        [row.name for row in rows],
        spans.first,
        spans.last,
        np.array(
            [means[g[0]] if len(g) == 1 else merge(spans.mean[:, g]) for g in groups], np.float32
        ),
        np.array([infinite[g].any(axis=0) for g in groups]),
        np.array([np.fmin.reduce(low[g]) for g in groups]),
        np.array([np.fmax.reduce(high[g]) for g in groups]),
        np.array([np.fmin.reduce(positive[g]) for g in groups]),
    )


def _extremes(
    values: Floats32,
) -> tuple[Floats32, Floats32, Floats32]:
    """Return the smallest, largest and smallest positive value of each row; NaN if there is none.

    `values` has the shape (rows, columns).
    """
    above = np.where(values > 0, values, np.float32(np.nan))
    pairs: tuple[tuple[np.ufunc, Floats32], ...] = (
        (np.fmin, values),
        (np.fmax, values),
        (np.fmin, above),
    )
    low, high, positive = (f.reduce(v, axis=1, initial=np.float32(np.nan)) for f, v in pairs)
    return low, high, positive


def write_json(file: IO[bytes], stream: str, statistic: str, slices: Iterator[MapRows]) -> None:
    """Write the map as the JSON of `schema.Heatmap`."""
    extremes = _Extremes()
    names: list[str] = []
    steps: list[int] = []
    last_steps: list[int] = []
    infinite: list[list[int]] = []
    file.write(_encode({"stream": stream, "statistic": statistic})[:-1] + b',"values":[')
    separator = b""
    for rows in slices:
        steps, last_steps = rows.steps.tolist(), rows.last_steps.tolist()
        extremes.add(rows)
        for name, row, bad in zip(rows.names, rows.values, rows.infinite, strict=True):
            file.write(separator + _encode(row.tolist()))
            separator = b","
            names.append(name)
            infinite.append(np.flatnonzero(bad).tolist())
    rest = {"places": names, "steps": steps, "last_steps": last_steps, "nonfinite": infinite}
    file.write(b"]," + _encode({**rest, **extremes.said()})[1:])


def in_file(write: Callable[[IO[bytes]], None]) -> IO[bytes]:
    """Return a temporary file, at its start, with what `write` writes to it."""
    file = tempfile.SpooledTemporaryFile(_SPOOLED_BYTES)  # noqa: SIM115 - the caller closes it
    try:
        write(file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def median(values: Floats) -> Floats:
    """Return the median of each row without its NaN; NaN for a row of NaN. `values`: (rows,
    columns).

    The median of a module does not depend on one tensor that is much larger than the others.
    """
    made = np.full(len(values), np.nan)
    known = np.isfinite(values).any(axis=1)
    made[known] = np.nanmedian(values[known], axis=1)
    return made


def largest(values: Floats) -> Floats:
    """Return the largest value of each row without its NaN; NaN for a row of NaN."""
    return np.asarray(np.fmax.reduce(values, axis=1, initial=np.nan))


@dataclass
class _Extremes:
    """Smallest, largest and smallest positive value so far."""

    low: float = math.inf
    high: float = -math.inf
    positive: float = math.inf

    def add(self, rows: MapRows) -> None:
        self.low = min(self.low, float(np.nanmin(rows.low, initial=math.inf)))
        self.high = max(self.high, float(np.nanmax(rows.high, initial=-math.inf)))
        least = float(np.nanmin(rows.least_positive, initial=math.inf))
        self.positive = min(self.positive, least)

    def said(self) -> dict[str, float | None]:
        """Return the fields of `schema.Heatmap`."""
        found = {"low": self.low, "high": self.high, "least_positive": self.positive}
        return {name: v if math.isfinite(v) else None for name, v in found.items()}


def sent(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the bytes of `file`, then close it."""
    with file:
        while part := file.read(_CHUNK_BYTES):
            yield part
