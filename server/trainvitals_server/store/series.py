"""Read curves of a run, downsampled to a number of points, from the coarsest sufficient tier.

Comes in: a stream, a statistic, places, a range of steps, the number of points.
Goes out: `Curves`: spans of steps with one column for each place.
Promise:  a spike of one step is in the extremes of its span at every zoom level. A coarse tier is
          read only for segments that are entirely in the range; other segments are read as rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from trainvitals.wire import Stat, Stream
from trainvitals_server.store.blocks import unpack
from trainvitals_server.store.models import Chunk
from trainvitals_server.store.tiers import FIELDS, TIER_FACTOR, TIERS, Spans
from trainvitals_server.store.timeline import TimelineTrack, timeline
from trainvitals_server.store.track_rows import AXIS_GROUP, GROUP_SERIES, TrackShape, read_rows


class UnknownSeries(LookupError):  # noqa: N818 - a normal answer to a client, not a fault
    """The run has no such stream, statistic or place."""


@dataclass(frozen=True)
class Curves:
    """`spans` has one column for each of `places`."""

    places: tuple[str, ...]
    spans: Spans


def curves(
    connection: sa.Connection,
    run_pk: int,
    stream: Stream,
    statistic: Stat,
    places: Sequence[str] | None,
    *,
    lo: int,
    hi: int,
    points: int,
) -> Curves:
    """Return the curves of `places` over lo ≤ step < hi in at most `points` spans.

    Without `places`, return all places of the newest layout, ordered by depth.

    Raises:
        UnknownSeries: no layout of the run has the stream, the statistic or one of the places.
    """
    tracks = timeline(connection, run_pk, stream)
    names = tuple(places) if places is not None else _all_places(tracks)
    _check(tracks, stream, statistic, names)
    counts = [_rows_in(connection, track, lo, hi) for track in tracks]
    tier = _tier(sum(counts), points)
    parts = []
    for track, count in zip(tracks, counts, strict=True):
        if count:
            parts.append(_spans(connection, track, statistic, names, lo, hi, tier))
    return Curves(names, Spans.joined(parts, len(names)).buckets(points))


def place_names(
    connection: sa.Connection, run_pk: int, stream: Stream, statistic: Stat
) -> tuple[str, ...]:
    """Return the places of the newest layout of a stream, by depth.

    Raises:
        UnknownSeries: no layout of the run has the stream or the statistic.
    """
    tracks = timeline(connection, run_pk, stream)
    names = _all_places(tracks)
    _check(tracks, stream, statistic, names)
    return names


def _all_places(tracks: Sequence[TimelineTrack]) -> tuple[str, ...]:
    if not tracks:
        return ()
    places = tracks[-1].layout.places
    # A depth of −1 means "not known yet"; these places are sorted last.
    ordered = sorted(places, key=lambda place: (place.depth < 0, place.depth))
    return tuple(place.name for place in ordered)


def _check(
    tracks: Sequence[TimelineTrack], stream: Stream, statistic: Stat, names: Sequence[str]
) -> None:
    if not tracks:
        raise UnknownSeries(f"The run has sent no data of stream {stream}.")
    if not any(statistic in track.layout.statistics for track in tracks):
        known = ", ".join(tracks[-1].layout.statistics)
        raise UnknownSeries(f"Stream {stream} has no statistic {statistic}; it has {known}.")
    known_places = {place.name for track in tracks for place in track.layout.places}
    unknown = sum(name not in known_places for name in names)
    if unknown:
        raise UnknownSeries(f"Stream {stream} does not have {unknown} of the requested places.")


def _tier(rows: int, points: int) -> int:
    """Return the coarsest tier that has at least `points` spans for `rows` rows."""
    return max((t for t in TIERS if rows >= points * TIER_FACTOR**t), default=0)


def _rows_in(connection: sa.Connection, track: TimelineTrack, lo: int, hi: int) -> int:
    """Return the approximate number of rows in the range."""
    segments = sa.select(sa.func.sum(Chunk.n)).where(
        Chunk.track_pk == track.shape.pk,
        Chunk.tier == 0,
        Chunk.group == AXIS_GROUP,
        Chunk.lo < min(hi, track.until),
        Chunk.hi >= lo,
    )
    return int(connection.scalar(segments) or 0) + track.log_rows


def _spans(
    connection: sa.Connection,
    track: TimelineTrack,
    statistic: Stat,
    names: Sequence[str],
    lo: int,
    hi: int,
    tier: int,
) -> Spans:
    """Return the track's spans, one column for each name; NaN where the track lacks the place."""
    if statistic not in track.layout.statistics:
        return Spans.joined([], len(names))
    row = {place.name: i for i, place in enumerate(track.layout.places)}
    columns = np.array([i for i, name in enumerate(names) if name in row], np.int64)
    first = track.layout.statistics.index(statistic) * track.shape.places
    series = np.array([first + row[names[i]] for i in columns], np.int64)
    hi = min(hi, track.until)
    coarse, whole = _sealed_spans(connection, track.shape, series, lo, hi, tier)
    rows = read_rows(connection, track.shape, series, lo=lo, hi=hi, without=whole)
    found = Spans.joined([*coarse, Spans.of_rows(rows.steps, rows.values)], len(series))
    if len(columns) == len(names):
        return found
    fields = np.full((FIELDS, len(found), len(names)), np.nan)
    fields[4:] = 0
    fields[:, :, columns] = found.fields
    return Spans(found.first, found.last, fields)


def _sealed_spans(
    connection: sa.Connection,
    shape: TrackShape,
    series: npt.NDArray[np.int64],
    lo: int,
    hi: int,
    tier: int,
) -> tuple[list[Spans], list[int]]:
    """Return the spans and the numbers of all segments that are entirely in the range."""
    if tier == 0:
        return [], []
    groups = [AXIS_GROUP, *np.unique(series // GROUP_SERIES).tolist()]
    wanted = (
        sa.select(Chunk.group, Chunk.segment, Chunk.n, Chunk.crc, Chunk.blob)
        .where(
            Chunk.track_pk == shape.pk,
            Chunk.tier == tier,
            Chunk.group.in_(groups),
            Chunk.lo >= lo,
            Chunk.hi < hi,
        )
        .order_by(Chunk.segment, Chunk.group)
    )
    spans: list[Spans] = []
    segments: list[int] = []
    for group, segment, n, crc, blob in connection.execute(wanted):
        if group == AXIS_GROUP:
            first, last = unpack(blob, crc, dtype="<i8", shape=(2, n))
            spans.append(Spans(first, last, np.empty((FIELDS, n, len(series)))))
            segments.append(segment)
            continue
        width = min(GROUP_SERIES, shape.series - group * GROUP_SERIES)
        block = unpack(blob, crc, dtype="<f8", shape=(FIELDS, width, n))
        mine = np.flatnonzero(series // GROUP_SERIES == group)
        spans[-1].fields[:, :, mine] = block[:, series[mine] % GROUP_SERIES].transpose(0, 2, 1)
    return spans, segments
