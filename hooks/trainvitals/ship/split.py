"""Divide a rejected batch, so that only the record that cannot be stored is dropped.

Pure: batches in, batches out. A part of batch n that begins at its i-th record (a frame counts
once for each of its steps) has the key i · 2^32 + n. The first part reuses the key of the batch,
which is free because the batch was rejected; all keys are different.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trainvitals.ship.packer import is_counted
from trainvitals.ship.segments import Spooled
from trainvitals.wire import (
    Batch,
    Frame,
    Layout,
    Record,
    WireError,
    decode,
    encode,
)
from trainvitals.wire.codec import Limits

_SHIFT = 32
_LIMITS = Limits(records_max=10**6, values_max=2**31, places_max=10**6, name_bytes_max=10**6)
"""Limits for decoding own batches: large enough for any of them."""


def records_of(batch: Spooled) -> list[Record]:
    """Return the records of a batch, frames divided into steps; [] if it cannot be decoded."""
    read = _read(batch)
    return [] if read is None else _steps_of(read.records)


def halves(batch: Spooled) -> list[Spooled]:
    """Return the two halves of a batch; [] if it is one record or cannot be decoded."""
    read = _read(batch)
    if read is None:
        return []
    records = _steps_of(read.records)
    if len(records) < 2:
        return []
    middle = len(records) // 2
    # The counted records of the parts add up to those of the batch.
    kept = min(sum(map(is_counted, records[:middle])), batch.records)
    return [
        _part(read, records[:middle], batch.seq, kept),
        _part(read, records[middle:], batch.seq + (middle << _SHIFT), batch.records - kept),
    ]


def with_layouts(batch: Spooled, layouts: Sequence[Layout]) -> Spooled | None:
    """Return the batch with the missing ones of `layouts` in front; None if none is missing."""
    read = _read(batch)
    if read is None:
        return None
    there = {(r.stream, r.version) for r in read.records if isinstance(r, Layout)}
    needed = {(r.stream, r.layout) for r in read.records if isinstance(r, Frame)} - there
    missing = [layout for layout in layouts if (layout.stream, layout.version) in needed]
    if not missing:
        return None
    whole = msgspec.structs.replace(read, records=(*missing, *read.records))
    return Spooled(batch.seq, batch.records, encode(whole))


def _read(batch: Spooled) -> Batch | None:
    try:
        return decode(batch.payload, _LIMITS)
    except WireError:
        return None


def _part(read: Batch, records: list[Record], seq: int, counted: int) -> Spooled:
    part = msgspec.structs.replace(read, seq=seq, records=tuple(records), counted=counted)
    return Spooled(seq, counted, encode(part))


def _steps_of(records: Sequence[Record]) -> list[Record]:
    parts: list[Record] = []
    for record in records:
        if not isinstance(record, Frame) or len(record.steps) < 2:
            parts.append(record)
            continue
        for at in range(len(record.steps)):
            one = slice(at, at + 1)
            parts.append(
                Frame(
                    record.stream,
                    record.layout,
                    record.steps[one],
                    record.times[one],
                    record.values[one],
                )
            )
    return parts
