"""Read curves of a run, downsampled to a number of points, from the coarsest sufficient tier.

Comes in: a stream, a statistic, places, a range of steps, the number of points.
Goes out: `Curves`: spans of steps with one column for each place.
Promise:  a spike of one step is in the extremes of its span at every zoom level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from trainvitals.wire import Stat, Stream
from trainvitals_server.store.chunks import AXIS_GROUP
from trainvitals_server.store.models import Chunk
from trainvitals_server.store.tiers import FIELDS, TIER_FACTOR, TIERS, Spans
from trainvitals_server.store.timeline import TimelineTrack, timeline
from trainvitals_server.store.track_rows import read_rows
from trainvitals_server.store.zoom import read_spans


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
    if tier == 0 and not track.thinned_rows:
        rows = read_rows(connection, track.shape, series, lo=lo, hi=hi)
        found = Spans.of_rows(rows.steps, rows.values)
    else:
        found = read_spans(connection, track.shape, series, lo, hi, tier)
    if len(columns) == len(names):
        return found
    fields = np.full((FIELDS, len(found), len(names)), np.nan)
    fields[4:] = 0
    fields[:, :, columns] = found.fields
    return Spans(found.first, found.last, found.rows, fields)
