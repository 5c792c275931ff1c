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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

import msgspec
import numpy as np
import numpy.typing as npt

from trainvitals.api.blocks import block_of, blocks_of
from trainvitals.wire import Stat
from trainvitals_server.store.series import Curves
from trainvitals_server.store.tiers import Floats, Steps

PLACES_AT_ONCE: Final = 512
_SPOOLED_BYTES: Final = 2**20
"""Larger files are on disk."""
_CHUNK_BYTES: Final = 64 * 1024
_encode = msgspec.json.encode
Floats32 = npt.NDArray[np.float32]


def slices_of(places: Sequence[str]) -> list[Sequence[str]]:
    """Return the places in slices of at most PLACES_AT_ONCE."""
    return [places[i : i + PLACES_AT_ONCE] for i in range(0, len(places), PLACES_AT_ONCE)]


def slices_of_blocks(places: Sequence[str]) -> list[Sequence[str]]:
    """Return the places in slices of whole blocks; a larger slice than usual is one block."""
    slices: list[list[str]] = []
    for members in blocks_of(places).values():
        if slices and len(slices[-1]) + len(members) <= PLACES_AT_ONCE:
            slices[-1].extend(members)
        else:
            slices.append(list(members))
    return list(slices)


@dataclass(frozen=True)
class MapRows:
    """Some rows of a heat map: places or blocks. All numbers are float32, NaN where there is none.

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


def rows_of(statistic: str, slices: Iterator[Curves], *, by_block: bool) -> Iterator[MapRows]:
    """Yield the rows of each slice: one per place, or one per block.

    `by_block` requires that no block is divided between two slices.
    """
    # The median of counts is 0 while fewer than half of the tensors are affected.
    merge = largest if statistic == Stat.NONFINITE else median
    for found in slices:
        yield _blocks(found, merge) if by_block else _places(found)


def _places(found: Curves) -> MapRows:
    spans = found.spans
    means = spans.mean.T.astype(np.float32)
    extremes = _extremes(means)
    names = list(found.places)
    return MapRows(names, spans.first, spans.last, means, spans.infinite.T > 0, *extremes)


def _blocks(found: Curves, merge: Callable[[Floats], Floats]) -> MapRows:
    spans, members = found.spans, dict[str, list[int]]()
    for column, place in enumerate(found.places):
        members.setdefault(block_of(place), []).append(column)
    groups = list(members.values())
    values = np.array([merge(spans.mean[:, group]) for group in groups], np.float32)
    infinite = np.array([(spans.infinite[:, group] > 0).any(axis=1) for group in groups])
    low, high, positive = _extremes(spans.mean.T.astype(np.float32))
    return MapRows(
        list(members),
        spans.first,
        spans.last,
        values,
        infinite,
        np.array([np.fmin.reduce(low[group]) for group in groups]),
        np.array([np.fmax.reduce(high[group]) for group in groups]),
        np.array([np.fmin.reduce(positive[group]) for group in groups]),
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
    """Return the median of each row without its NaN; NaN for a row of NaN. Shape (rows, columns).

    The median of a block does not depend on one tensor that is much larger than the others.
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
