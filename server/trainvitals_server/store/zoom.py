"""Read the spans of a track at a tier, exactly for any range of steps.

Comes in: a track, the numbers of series, a range of steps, a tier.
Goes out: spans that contain each row of the range once, and no other row.
Promise:  the number of chunks that are read does not depend on the length of the run: a range
          consists of whole spans of the wanted tier and, at both ends and in the newest part, of
          spans of the finer tiers. No row is in two of them, because a chunk knows its segments.
Start at `read_spans`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from trainvitals_server.store.chunks import (
    AXIS_ALONE,
    AXIS_GROUP,
    GROUP_SERIES,
    spans_axis,
    spans_fields,
    width,
)
from trainvitals_server.store.models import Chunk
from trainvitals_server.store.tiers import Spans
from trainvitals_server.store.track_rows import Rows, TrackShape, logged_rows, sealed_rows

SEGMENTS = (0, 2**62)
"""All segments of a track."""


def read_spans(
    connection: sa.Connection,
    shape: TrackShape,
    series: npt.NDArray[np.int64],
    lo: int,
    hi: int,
    tier: int,
) -> Spans:
    """Return spans of the rows with lo ≤ step < hi; one column for each of `series`.

    Spans of finer tiers than `tier` are at the ends of the range and in its newest part.
    """
    reader = _Reader(connection, shape, series)
    spans = list(reader.sealed(tier, SEGMENTS, lo, hi))
    logged = [rows.between(lo, hi) for rows in logged_rows(connection, shape, series, lo, hi)]
    rows = Rows.joined(logged, (len(series),))
    return Spans.joined([*spans, Spans.of_rows(rows.steps, rows.values)], len(series))


@dataclass(frozen=True)
class _Reader:
    connection: sa.Connection
    shape: TrackShape
    series: npt.NDArray[np.int64]

    def sealed(self, tier: int, segments: tuple[int, int], lo: int, hi: int) -> Iterator[Spans]:
        """Yield the spans of some segments in a range of steps."""
        if lo >= hi or segments[0] >= segments[1]:
            return
        if tier == 0:
            for rows in sealed_rows(
                self.connection, self.shape, self.series, lo, hi, segments=segments
            ):
                part = rows.between(lo, hi)
                yield Spans.of_rows(part.steps, part.values)
            yield from self._thinned(segments, lo, hi)
            return
        at = segments[0]
        for first, stop, spans in self.chunks(tier, segments, lo, hi):
            yield from self.sealed(tier - 1, (at, first), lo, hi)
            at = stop
            a, b = np.searchsorted(spans.first, lo), np.searchsorted(spans.last, hi)
            if a >= b:
                yield from self.sealed(tier - 1, (first, stop), lo, hi)
                continue
            inside = spans.part(int(a), int(b))
            if a > 0:
                until = int(inside.first[0])
                yield from self.sealed(tier - 1, (first, stop), lo, until)
            yield inside
            if b < len(spans):
                since = int(inside.last[-1]) + 1
                yield from self.sealed(tier - 1, (first, stop), since, hi)
        yield from self.sealed(tier - 1, (at, segments[1]), lo, hi)

    def _thinned(self, segments: tuple[int, int], lo: int, hi: int) -> Iterator[Spans]:
        """Yield the spans of tier 1 that replace the rows of thinned segments.

        A span that is only partly in the range is included whole: its rows are not stored.
        """
        wanted = (
            sa.select(Chunk.segment, Chunk.lo, Chunk.hi)
            .where(
                Chunk.track_pk == self.shape.pk,
                Chunk.tier == 0,
                Chunk.group == AXIS_GROUP,
                Chunk.codec == AXIS_ALONE,
                Chunk.segment >= segments[0],
                Chunk.segment < segments[1],
                Chunk.lo < hi,
                Chunk.hi >= lo,
            )
            .order_by(Chunk.segment)
        )
        for segment, first, last in self.connection.execute(wanted).all():
            for at, stop, spans in self.chunks(1, SEGMENTS, first, last + 1):
                if at <= segment < stop:
                    a = np.searchsorted(spans.last, max(lo, first))
                    b = np.searchsorted(spans.first, min(hi, last + 1))
                    yield spans.part(int(a), int(b))

    def chunks(
        self, tier: int, segments: tuple[int, int], lo: int, hi: int
    ) -> list[tuple[int, int, Spans]]:
        """Return (first segment, segment after the last, spans) of the chunks in the range."""
        groups = [AXIS_GROUP, *np.unique(self.series // GROUP_SERIES).tolist()]
        wanted = (
            sa.select(
                Chunk.segment,
                Chunk.segments,
                Chunk.group,
                Chunk.n,
                Chunk.codec,
                Chunk.crc,
                Chunk.blob,
            )
            .where(
                Chunk.track_pk == self.shape.pk,
                Chunk.tier == tier,
                Chunk.group.in_(groups),
                Chunk.segment >= segments[0],
                Chunk.segment < segments[1],
                Chunk.lo < hi,
                Chunk.hi >= lo,
            )
            .order_by(Chunk.segment, Chunk.group)
        )
        found: list[tuple[int, int, Spans]] = []
        for segment, count, group, n, codec, crc, blob in self.connection.execute(wanted):
            if group == AXIS_GROUP:
                spans = spans_axis(blob, crc, n, codec, len(self.series))
                found.append((segment, segment + count, spans))
                continue
            spans = found[-1][2]
            wide = width(self.shape.series, group)
            fields = spans_fields(blob, crc, n, codec, wide, spans.rows)
            mine = np.flatnonzero(self.series // GROUP_SERIES == group)
            columns = fields[:, self.series[mine] % GROUP_SERIES]
            spans.fields[:, :, mine] = columns.transpose(0, 2, 1)
        return found


def merged_spans(
    connection: sa.Connection,
    shape: TrackShape,
    series: npt.NDArray[np.int64],
    tier: int,
    segments: tuple[int, int],
) -> Spans:
    """Return all spans that some segments have at a tier."""
    found = _Reader(connection, shape, series).chunks(tier, segments, 0, 2**62)
    return Spans.joined([spans for _, _, spans in found], len(series))
