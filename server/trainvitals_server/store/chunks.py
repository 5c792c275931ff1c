"""The blobs of a sealed segment: rows and spans to chunks, and back.

A chunk has up to 32 consecutive series, numbered statistic-major, because the values of one
statistic of neighbouring tensors compress well together. Group −1 is the axis of the others.

| tier | axis | values |
|---|---|---|
| 0 | int64 (2, n): step, bits of the time | float32 (series, n) |
| 1 and more | int64 (3, n): first step, last step, rows of the span | float32 (fields, series, n) |

The fields of a span are minimum, mean, maximum and last value. The number of finite and the number
of infinite values follow only where a value of the chunk is not finite; else a span has as many
finite values as rows. Chunks of codec 1 above tier 0 come from an older version: float64, always
with both counts, and an axis without the number of rows.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainvitals_server.store.compression import pack_planes, planes, unpack
from trainvitals_server.store.tiers import FIELDS, TIER_FACTOR, Spans, Steps

GROUP_SERIES: Final = 32
AXIS_GROUP: Final = -1

SHUFFLED: Final = 1
"""Byte shuffle, then zstd. Above tier 0: spans as an older version stored them."""
SPANS: Final = 2
"""Spans without counts: all values are finite."""
COUNTED_SPANS: Final = 3
AXIS_ALONE: Final = 4
"""The axis of a segment of tier 0 whose values retention has removed."""

_STORED = 4  # fields of codec 2: all but the counts

Values = npt.NDArray[np.float32]
Row = dict[str, Any]


def row_chunks(steps: Steps, times: npt.NDArray[np.float64], values: Values) -> list[Row]:
    """Return the chunks of tier 0; `values` has shape (series, rows)."""
    axis = np.stack([steps, times.astype("<f8").view("<i8")])
    about = {"tier": 0, "lo": int(steps[0]), "hi": int(steps[-1]), "n": len(steps)}
    chunks = [_chunk(about, AXIS_GROUP, SHUFFLED, planes(axis))]
    shuffled = planes(np.asarray(values, "<f4"))
    for group, at in enumerate(range(0, len(values), GROUP_SERIES)):
        chunks.append(_chunk(about, group, SHUFFLED, shuffled[:, at : at + GROUP_SERIES]))
    return chunks


def span_chunks(spans: Spans, tier: int) -> list[Row]:
    """Return the chunks of spans at `tier`."""
    axis = np.stack([spans.first, spans.last, spans.rows])
    about = {
        "tier": tier,
        "lo": int(spans.first[0]),
        "hi": int(spans.last.max()),
        "n": len(spans),
    }
    chunks = [_chunk(about, AXIS_GROUP, SPANS, planes(axis))]
    is_full = np.all(spans.fields[_STORED] == spans.rows[:, None], axis=0)
    counts = not is_full.all()
    stored = spans.fields if counts else spans.fields[:_STORED]
    shuffled = planes(np.ascontiguousarray(stored.transpose(0, 2, 1), dtype="<f4"))
    for group, at in enumerate(range(0, len(is_full), GROUP_SERIES)):
        part = shuffled[:, :, at : at + GROUP_SERIES]
        if is_full[at : at + GROUP_SERIES].all():
            chunks.append(_chunk(about, group, SPANS, part[:, :_STORED]))
        else:
            chunks.append(_chunk(about, group, COUNTED_SPANS, part))
    return chunks


def _chunk(about: Row, group: int, codec: int, shuffled: npt.NDArray[np.uint8]) -> Row:
    blob, crc = pack_planes(shuffled)
    return {**about, "group": group, "codec": codec, "crc": crc, "blob": blob}


def rows_axis(blob: bytes, crc: int, n: int) -> tuple[Steps, npt.NDArray[np.float64]]:
    """Return (steps, times) of a chunk of tier 0."""
    axis = unpack(blob, crc, dtype="<i8", shape=(2, n))
    return axis[0], axis[1].view(np.float64)


def rows_values(blob: bytes, crc: int, n: int, series: int) -> Values:
    """Return the values of a chunk of tier 0, shape (series, rows)."""
    return unpack(blob, crc, dtype="<f4", shape=(series, n))


def spans_axis(blob: bytes, crc: int, n: int, codec: int, series: int) -> Spans:
    """Return the spans of a chunk, with fields of undefined value for `series` series."""
    if codec == SHUFFLED:
        first, last = unpack(blob, crc, dtype="<i8", shape=(2, n))
        rows = np.full(n, TIER_FACTOR)
    else:
        first, last, rows = unpack(blob, crc, dtype="<i8", shape=(3, n))
    return Spans(first, last, rows, np.empty((FIELDS, n, series)))


def spans_fields(
    blob: bytes, crc: int, n: int, codec: int, series: int, rows: Steps
) -> npt.NDArray[np.float32] | npt.NDArray[np.float64]:
    """Return the fields of a chunk above tier 0, shape (fields, series, spans)."""
    if codec == SHUFFLED:
        return unpack(blob, crc, dtype="<f8", shape=(FIELDS, series, n))
    if codec == COUNTED_SPANS:
        return unpack(blob, crc, dtype="<f4", shape=(FIELDS, series, n))
    fields = np.empty((FIELDS, series, n), np.float32)
    fields[:_STORED] = unpack(blob, crc, dtype="<f4", shape=(_STORED, series, n))
    fields[_STORED] = rows
    fields[_STORED + 1] = 0
    return fields


def width(series: int, group: int) -> int:
    """Return the number of series in a group of a track with `series` series."""
    return min(GROUP_SERIES, series - group * GROUP_SERIES)
