"""Assemble the pages of an export from its series: the inverse of `export.rows`.

Comes in: `Part`s in the order of an exported file. Goes out: `Page`s: one matrix steps × places ×
statistics each; within a stream, steps ascend.
Start at `pages`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from trainvitals.imports.rows import BadFile, Key, Part, cut
from trainvitals.wire import Stat, Stream

_VALUES_MAX: Final = 2**24
"""Values of one page: 16 times those of an export's page, for a single step of a large network."""


@dataclass(frozen=True)
class Page:
    """A matrix of values; `values` is float32, shape (steps, places, statistics)."""

    stream: Stream
    places: tuple[str, ...]
    statistics: tuple[Stat, ...]
    steps: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]
    absent: int = 0
    """Values that the file does not have; they are NaN: not measured."""


@dataclass
class _Open:
    """A page that is not complete."""

    parts: dict[Key, Part] = field(default_factory=dict)

    @property
    def first(self) -> Part:
        return next(iter(self.parts.values()))

    def add(self, part: Part) -> None:
        self.parts[part.key] = part
        if len(self.parts) * len(part.steps) > _VALUES_MAX:
            raise BadFile(f"The page that contains row {part.row:,} has too many values.")


def pages(parts: Iterable[Part]) -> Iterator[Page]:
    """Yield the pages of an exported file.

    Raises:
        BadFile: the rows are not in the order of an export, or a row is there twice.
    """
    last: dict[str, int] = {}
    for page in _pages(parts):
        stream = str(page.first.key.stream)
        if page.first.steps[0] <= last.get(stream, -1):
            raise BadFile(
                f"Row {page.first.row:,}: step {page.first.steps[0]:,} of the stream {stream!r} "
                f"follows step {last[stream]:,}. The rows of a file are in the order that "
                "`trainvitals export` writes: stream, block of steps, place, statistic, step."
            )
        last[stream] = int(page.first.steps[-1])
        yield _matrix(page)


def _pages(parts: Iterable[Part]) -> Iterator[_Open]:
    now = _Open()
    for part in parts:
        left: Part | None = part
        while left is not None:
            if not now.parts:
                now.add(left)
                break
            done, left = _placed(now, left)
            if done is not None:
                yield done
    if now.parts:
        yield now


def _placed(now: _Open, part: Part) -> tuple[_Open | None, Part | None]:
    """Add a part to the page `now`; return (a page that is complete, what is left of the part)."""
    first = now.first
    if part.key.stream == first.key.stream and part.key not in now.parts:
        at = int(np.searchsorted(first.steps, part.steps[0]))
        steps = first.steps[at:]
        fits = len(steps) and len(part.steps) >= len(steps)
        if fits and np.array_equal(part.steps[: len(steps)], steps) and (not at or _alone(now)):
            done = None
            if at:
                # The rows of one place alone, followed by those of a page that begins with it.
                done = _Open({first.key: cut(first, 0, at)})
                now.parts = {first.key: cut(first, at, len(first.steps))}
            _check_times(now.first, part)
            now.add(cut(part, 0, len(steps)))
            rest = cut(part, len(steps), len(part.steps)) if len(part.steps) > len(steps) else None
            return done, rest
    done = _Open(now.parts)
    now.parts = {}
    return done, part


def _alone(now: _Open) -> bool:
    return len(now.parts) == 1


def _check_times(first: Part, part: Part) -> None:
    different = first.times != part.times[: len(first.times)]
    if different.any():
        at = int(np.argmax(different))
        raise BadFile(
            f"Row {part.row + at:,} has another time than row {first.row + at:,} of the same step."
        )


def _matrix(page: _Open) -> Page:
    places = tuple(dict.fromkeys(key.place for key in page.parts))
    statistics = tuple(dict.fromkeys(key.statistic for key in page.parts))
    first = page.first
    values = np.full((len(first.steps), len(places), len(statistics)), np.nan, np.float32)
    at = {name: i for i, name in enumerate(places)}
    column = {name: i for i, name in enumerate(statistics)}
    for key, part in page.parts.items():
        values[:, at[key.place], column[key.statistic]] = part.values
    absent = len(first.steps) * (len(places) * len(statistics) - len(page.parts))
    return Page(
        Stream(first.key.stream),
        places,
        tuple(map(Stat, statistics)),
        first.steps,
        first.times,
        values,
        absent,
    )
