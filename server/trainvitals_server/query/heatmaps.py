"""Write a heat map as JSON to a temporary file, a few hundred places at a time.

Comes in: slices of curves. Goes out: a file with the JSON of `schema.Heatmap`.
Promise:  memory does not grow with the number of places: a map of 20,000 places × 400 columns has
          8 million numbers, which would take 256 MB as Python floats. A map by block has one slice
          of places in memory, which is at least as large as the largest block.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import msgspec
import numpy as np

from trainvitals.api.blocks import block_of, blocks_of
from trainvitals.wire import Stat
from trainvitals_server.store.series import Curves
from trainvitals_server.store.tiers import Floats

PLACES_AT_ONCE: Final = 512
_SPOOLED_BYTES: Final = 2**20
"""Larger files are on disk."""
_CHUNK_BYTES: Final = 64 * 1024
_encode = msgspec.json.encode


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


def write_heatmap(
    stream: str, statistic: str, slices: Iterator[Curves], *, by_block: bool
) -> IO[bytes]:
    """Return a file, at its start, with the JSON of the map, one row per place or per block.

    `by_block` requires that no block is divided between two slices.
    """
    file = tempfile.SpooledTemporaryFile(_SPOOLED_BYTES)  # noqa: SIM115 - the caller closes it
    try:
        extremes = _Extremes()
        # The median of counts is 0 while fewer than half of the tensors are affected.
        merge = largest if statistic == Stat.NONFINITE else median
        names: list[str] = []
        steps: list[int] = []
        last_steps: list[int] = []
        infinite: list[list[int]] = []
        file.write(_encode({"stream": stream, "statistic": statistic})[:-1] + b',"values":[')
        separator = b""
        for found in slices:
            steps, last_steps = found.spans.first.tolist(), found.spans.last.tolist()
            extremes.add(found.spans.mean)
            for name, row, bad in _blocks(found, merge) if by_block else _places(found):
                file.write(separator + _encode(row.tolist()))
                separator = b","
                names.append(name)
                infinite.append(np.flatnonzero(bad).tolist())
        rest = {"places": names, "steps": steps, "last_steps": last_steps, "nonfinite": infinite}
        file.write(b"]," + _encode({**rest, **extremes.said()})[1:])
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _places(found: Curves) -> Iterator[tuple[str, Floats, Any]]:
    yield from zip(found.places, found.spans.mean.T, found.spans.infinite.T > 0, strict=True)


def _blocks(found: Curves, merge: Callable[[Floats], Floats]) -> Iterator[tuple[str, Floats, Any]]:
    columns: dict[str, list[int]] = {}
    for column, place in enumerate(found.places):
        columns.setdefault(block_of(place), []).append(column)
    mean, infinite = found.spans.mean, found.spans.infinite
    for name, of_block in columns.items():
        yield name, merge(mean[:, of_block]), (infinite[:, of_block] > 0).any(axis=1)


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

    def add(self, values: Floats) -> None:
        self.low = min(self.low, float(np.nanmin(values, initial=math.inf)))
        self.high = max(self.high, float(np.nanmax(values, initial=-math.inf)))
        above = values[values > 0]
        self.positive = min(self.positive, float(above.min(initial=math.inf)))

    def said(self) -> dict[str, float | None]:
        """Return the fields of `schema.Heatmap`."""
        found = {"low": self.low, "high": self.high, "least_positive": self.positive}
        return {name: v if math.isfinite(v) else None for name, v in found.items()}


def sent(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the bytes of `file`, then close it."""
    with file:
        while part := file.read(_CHUNK_BYTES):
            yield part
