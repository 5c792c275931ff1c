"""Batches that a training process could have sent, from the pages of a file.

Comes in: pages, and who they belong to. Goes out: `Batch`es with sequence numbers from 0.
Promise:  the same file gives the same batches, byte for byte: the collector recognises a repeat.
Start at `batches`; `summary` reads the pages once before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from trainvitals.imports.pages import Page
from trainvitals.ship.packer import BATCH_VALUES
from trainvitals.wire import Batch, Frame, Layout, Place, Record, RunEnd, RunStart, Stream
from trainvitals.wire.sanitise import sanitised

IMPORT: Final = "import"
"""Key of the run's configuration that names the source of the values."""
TAG: Final = "imported"
_VALUES: Final = BATCH_VALUES
"""Values of one batch, unless a single step has more."""
_STEPS: Final = 4096
_PLACES: Final = 2000
"""Places of the layouts of one batch, unless a single layout has more."""
_RECORDS: Final = 1000


@dataclass
class Summary:
    """What a file contains."""

    rows: int = 0
    absent: int = 0
    """Values that no row of the file has, in matrices of the others."""
    streams: set[str] = field(default_factory=set)
    first_step: int = -1
    last_step: int = -1
    first_time: float = 0.0
    last_time: float = 0.0


def summary(pages: Iterable[Page]) -> Summary:
    """Return the amounts and the range of some pages."""
    found = Summary()
    for page in pages:
        lo, hi = int(page.steps[0]), int(page.steps[-1])
        first, last = float(page.times.min()), float(page.times.max())
        if not found.rows:
            found.first_step, found.first_time, found.last_time = lo, first, last
        found.rows += page.values.size - page.absent
        found.absent += page.absent
        found.streams.add(str(page.stream))
        found.first_step, found.last_step = min(found.first_step, lo), max(found.last_step, hi)
        found.first_time = min(found.first_time, first)
        found.last_time = max(found.last_time, last)
    return found


@dataclass(frozen=True)
class Target:
    """The run that a file becomes."""

    run: str
    project: str
    digest: str
    """Of the file, in hexadecimal digits."""
    about: dict[str, Any]
    """Configuration of the run, without the key IMPORT."""

    def source(self, start: int) -> bytes:
        """Return the key of the process that the batches claim to be from.

        `start` counts the deleted runs that this file was before, from 0.
        """
        words = "\x00".join((self.digest, self.project, self.run, str(start)))
        return hashlib.sha256(words.encode()).digest()[:16]

    def record(self, found: Summary) -> RunStart:
        """Return the record that begins the run."""
        config = {**self.about, IMPORT: {"sha256": self.digest}}
        return RunStart(found.first_time, name=self.run, config=config, tags=(TAG,))


def batches(pages: Iterable[Page], target: Target, found: Summary, start: int) -> Iterator[Batch]:
    """Yield the batches of a run; `found` is the summary of these pages."""
    seq = produced = 0
    waiting: list[Record] = [sanitised(target.record(found))]
    values = places = 0

    def batch(records: list[Record]) -> Batch:
        nonlocal seq, produced
        # The time of the file, not of now: a repeat has the same bytes.
        at, source = found.first_time, target.source(start)
        produced += len(records)
        seq += 1
        return Batch(
            target.run, target.project, source, seq - 1, at, 0, tuple(records), len(records)
        )

    for record in _records(pages):
        if isinstance(record, Frame):
            values += record.values.size
        elif isinstance(record, Layout):
            places += len(record.places)
        if len(waiting) > _RECORDS or values > _VALUES or places > _PLACES:
            yield batch(waiting)
            waiting = []
            values = record.values.size if isinstance(record, Frame) else 0
            places = len(record.places) if isinstance(record, Layout) else 0
        waiting.append(record)
    end = RunEnd(
        found.last_time, found.last_step, "finished", produced + len(waiting) + 1, last_seq=seq
    )
    yield batch([*waiting, end])


def _records(pages: Iterable[Page]) -> Iterator[Record]:
    """Yield layouts and frames. A layout that differs from the one before has a new version."""
    newest: dict[Stream, Layout] = {}
    for page in pages:
        known = newest.get(page.stream)
        if known is None or not _is_of(known, page):
            version = 0 if known is None else known.version + 1
            # The places are not changed: the names of a stored run are storable.
            named = tuple(map(Place, page.places))
            known = newest[page.stream] = Layout(page.stream, version, page.statistics, named)
            yield known
        steps = max(1, min(_STEPS, _VALUES // max(1, page.values[0].size)))
        for lo in range(0, len(page.steps), steps):
            here = slice(lo, lo + steps)
            yield Frame(
                page.stream, known.version, page.steps[here], page.times[here], page.values[here]
            )


def _is_of(layout: Layout, page: Page) -> bool:
    same = layout.statistics == page.statistics
    return same and tuple(place.name for place in layout.places) == page.places
