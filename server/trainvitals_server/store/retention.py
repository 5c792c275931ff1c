"""Keep the store within its budgets: thin old steps, remove old runs.

Comes in: the limits of the settings. Goes out: fewer chunks.
Promise:  a thinned segment keeps the minimum, mean, maximum and last value of each 16 rows (tiers 1
          to 3), so every spike stays visible; only the single rows between are lost. The first and
          the newest segments of a stream, and those around a finding, are never thinned. A run with
          the tag `keep` is never removed, nor is one that has not ended.
Start at `Retention.run_once`, which the compactor calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from trainvitals_server.store.chunks import AXIS_ALONE, AXIS_GROUP
from trainvitals_server.store.database import Database
from trainvitals_server.store.models import Chunk, FindingRow, Run, Source, Track
from trainvitals_server.store.removal import BINNED, ERASED, GONE, hide

log = logging.getLogger(__name__)

KEEP_TAG: Final = "keep"
FIRST_SEGMENTS: Final = 1
NEWEST_SEGMENTS: Final = 4
AROUND_FINDING: Final = 512
"""Steps before and after the first step of a finding whose segments keep every row."""
_SEGMENTS_AT_ONCE: Final = 8
"""Segments that one transaction thins."""
RETENTION_CLAIM: Final = (1 << 31) - 1
"""Held, across collectors, while the limits are applied."""
_DAY_S: Final = 86_400
_STORED_BYTES: Final = (
    Track.sealed_bytes + Track.span_bytes + 4 * Track.log_rows * Track.places * Track.statistics
)
"""Bytes of a track: its rows and tiers as compressed, its log as received."""


@dataclass(frozen=True)
class RetentionLimits:
    """The budgets; 0 means no limit unless stated otherwise."""

    stream_bytes: int = 0
    """Compressed bytes of the single rows of one stream of one process."""
    run_bytes: int = 0
    """Bytes of the stored values of one run, counted as `used_bytes` does."""
    total_bytes: int = 0
    """Bytes of the stored values of all runs, as `used_bytes` counts them."""
    ended_days: float = 0
    """Days after its last report when an ended run is removed."""
    deleted_days: float = 7
    """Days that a deleted run stays in the bin; here 0 is none."""


@dataclass(frozen=True)
class Segment:
    """A sealed segment that has all of its rows."""

    number: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Ended:
    """A run that has ended and has no tag `keep`."""

    pk: int
    at: float
    """Time of its last report."""
    tags: bytes

    @property
    def unchanged(self) -> tuple[sa.ColumnElement[bool], ...]:
        """Conditions under which it still is the run that was found."""
        return (
            Run.state.not_in((*GONE, "running")),
            Run.last_report_at == self.at,
            Run.tags == self.tags,
        )


def thinnable(
    segments: Sequence[Segment], findings: Sequence[int], *, newest: int = NEWEST_SEGMENTS
) -> list[Segment]:
    """Return the segments that may be thinned, oldest first.

    `findings` are the first steps of the run's findings. The first segment and the `newest` last
    ones stay.
    """
    inner = segments[FIRST_SEGMENTS : max(FIRST_SEGMENTS, len(segments) - newest)]
    return [
        segment
        for segment in inner
        if not any(
            segment.lo <= step + AROUND_FINDING and segment.hi >= step - AROUND_FINDING
            for step in findings
        )
    ]


def largest_share(sizes: Sequence[int], total: int) -> int:
    """Return the size to which the larger of `sizes` are cut so that their sum is `total` at most.

    Sizes up to it stay; without a need to cut, it is the largest size.
    """
    left = max(0, total)
    for position, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - position)
        if size > share:
            return share
        left -= size
    return max(sizes, default=0)


class Retention:
    """Thins and removes what is over the limits, oldest first."""

    def __init__(
        self,
        database: Database,
        limits: RetentionLimits,
        clock: Callable[[], float],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._is_stopping = is_stopping

    def run_once(self) -> int:
        """Apply all limits once; return the number of thinned segments and removed runs.

        Only one collector does so at a time: two would thin and remove more than necessary.
        """
        done = 0
        with self._database.claim(RETENTION_CLAIM) as mine:
            if not mine:
                return 0
            if self._limits.stream_bytes:
                for run_pk, track_pk in self._large_tracks():
                    done += self._thin(run_pk, track_pk, self._limits.stream_bytes)
            if self._limits.run_bytes:
                done += sum(map(self._thin_run, self._large_runs()))
            done += self._empty_bin(self._clock() - self._limits.deleted_days * _DAY_S)
            if self._limits.ended_days:
                done += self._remove_old()
            if self._limits.total_bytes:
                done += self._fit()
        return done

    # --- one stream --------------------------------------------------------------------------

    def _large_tracks(self) -> list[tuple[int, int]]:
        wanted = (
            sa.select(Source.run_pk, Track.pk)
            .join(Source, Source.pk == Track.source_pk)
            .join(Run, Run.pk == Source.run_pk)
            .where(Track.sealed_bytes > self._limits.stream_bytes, Run.state.not_in(GONE))
        )
        with self._database.read() as connection:
            return [(run_pk, track_pk) for run_pk, track_pk in connection.execute(wanted)]

    def _thin(
        self, run_pk: int, track_pk: int, bytes_max: int, *, newest: int = NEWEST_SEGMENTS
    ) -> int:
        """Thin the oldest segments of a track until it has at most `bytes_max`."""
        with self._database.read() as connection:
            segments = _segments(connection, track_pk)
            findings = list(
                connection.scalars(
                    sa.select(FindingRow.since_step).where(FindingRow.run_pk == run_pk)
                )
            )
        done = 0
        for some in _parts(thinnable(segments, findings, newest=newest)):
            if self._is_stopping() or self._bytes_of(track_pk) <= bytes_max:
                break
            self._database.write(partial(thin, track_pk, [each.number for each in some]))
            done += len(some)
        return done

    def _bytes_of(self, track_pk: int) -> int:
        with self._database.read() as connection:
            wanted = sa.select(Track.sealed_bytes).where(Track.pk == track_pk)
            return connection.scalar(wanted) or 0

    # --- one run -----------------------------------------------------------------------------

    def _large_runs(self) -> list[int]:
        wanted = (
            sa.select(Source.run_pk)
            .join(Track, Track.source_pk == Source.pk)
            .join(Run, Run.pk == Source.run_pk)
            .where(Run.state.not_in(GONE))
            .group_by(Source.run_pk)
            .having(sa.func.sum(_STORED_BYTES) > self._limits.run_bytes)
        )
        with self._database.read() as connection:
            return list(connection.scalars(wanted))

    def _thin_run(self, run_pk: int) -> int:
        """Thin the largest streams of a run, each to the same size, so that the run fits."""
        wanted = (
            sa.select(Track.pk, Track.sealed_bytes, _STORED_BYTES)
            .join(Source, Source.pk == Track.source_pk)
            .where(Source.run_pk == run_pk)
        )
        with self._database.read() as connection:
            tracks = [(pk, sealed, stored) for pk, sealed, stored in connection.execute(wanted)]
        stays = sum(stored - sealed for _, sealed, stored in tracks)
        share = largest_share([sealed for _, sealed, _ in tracks], self._limits.run_bytes - stays)
        return sum(self._thin(run_pk, pk, share) for pk, sealed, _ in tracks if sealed > share)

    # --- all runs ----------------------------------------------------------------------------

    def _remove_old(self) -> int:
        before = self._clock() - self._limits.ended_days * _DAY_S
        with self._database.read() as connection:
            old = [run for run in _ended(connection) if run.at < before]
        why = f"it ended more than {self._limits.ended_days:g} days ago"
        return sum(self._remove(run.pk, why, *run.unchanged) for run in old)

    def _empty_bin(self, before: float) -> int:
        """Remove the runs that were put into the bin before this time."""
        due = (Run.state == BINNED, Run.deleted_at < before)
        with self._database.read() as connection:
            old = list(connection.scalars(sa.select(Run.pk).where(*due)))
        why = "it was deleted, and its time in the bin is over"
        return sum(self._remove(run_pk, why, *due) for run_pk in old)

    def _fit(self) -> int:
        """Empty the bin, then thin, then remove, the runs that ended first, down to the limit."""
        limit = self._limits.total_bytes
        with self._database.read() as connection:
            if used_bytes(connection) <= limit:
                return 0
            oldest = sa.select(Run.pk).where(Run.state == BINNED).order_by(Run.deleted_at)
            binned = connection.scalar(oldest.limit(1))
            ended = _ended(connection)
        if binned is not None:
            why = f"it was deleted, and all runs have more than {limit} bytes"
            return int(self._remove(binned, why, Run.state == BINNED))
        done = 0
        for run in ended:
            for track_pk in self._tracks(run.pk):
                done += self._thin(run.pk, track_pk, 0, newest=0)
            with self._database.read() as connection:
                is_within = used_bytes(connection) <= limit
            if is_within or self._is_stopping():
                return done
        if ended:
            # One run at a time: its rows are removed before the next turn.
            why = f"all runs together have more than {limit} bytes"
            return done + self._remove(ended[0].pk, why, *ended[0].unchanged)
        log.warning("All runs have more than %d bytes, and no ended run can be removed.", limit)
        return done

    def _tracks(self, run_pk: int) -> list[int]:
        wanted = (
            sa.select(Track.pk)
            .join(Source, Source.pk == Track.source_pk)
            .where(Source.run_pk == run_pk)
        )
        with self._database.read() as connection:
            return list(connection.scalars(wanted))

    def _remove(self, run_pk: int, why: str, *still: sa.ColumnElement[bool]) -> bool:
        """Hide a run for which `still` holds, and log it; return whether it was hidden."""
        with self._database.read() as connection:
            name = connection.scalar(
                sa.select(sa.func.coalesce(Run.binned_id, Run.id)).where(Run.pk == run_pk)
            )
        # Since the run was chosen, a user may have undeleted it, or a process may have joined it.
        done = self._database.write(lambda connection: hide(connection, run_pk, *still))
        if done:
            log.warning("Run %s is removed: %s.", name, why)
        return done


def used_bytes(connection: sa.Connection) -> int:
    """Return the bytes of the values of all runs, and of those in the bin.

    Values are counted as compressed, or as received while they are in the log. The size of the
    file is not used, because neither engine returns space to the disk by itself.
    """
    wanted = (
        sa.select(sa.func.sum(_STORED_BYTES))
        .join(Source, Source.pk == Track.source_pk)
        .join(Run, Run.pk == Source.run_pk)
        .where(Run.state.not_in(ERASED))
    )
    return int(connection.scalar(wanted) or 0)


def thin(track_pk: int, segments: Sequence[int], connection: sa.Connection) -> None:
    """Delete the rows of some segments; their axis and their tiers stay."""
    mine = (Chunk.track_pk == track_pk, Chunk.tier == 0, Chunk.segment.in_(segments))
    track = sa.select(Track.pk).where(Track.pk == track_pk)
    connection.execute(track.with_for_update())
    values = (*mine, Chunk.group != AXIS_GROUP)
    freed = connection.scalar(sa.select(sa.func.sum(sa.func.length(Chunk.blob))).where(*values))
    axis = (*mine, Chunk.group == AXIS_GROUP, Chunk.codec != AXIS_ALONE)
    rows = connection.scalar(sa.select(sa.func.sum(Chunk.n)).where(*axis))
    connection.execute(sa.delete(Chunk).where(*values))
    connection.execute(sa.update(Chunk).where(*axis).values(codec=AXIS_ALONE))
    connection.execute(
        sa.update(Track)
        .where(Track.pk == track_pk)
        .values(
            sealed_bytes=Track.sealed_bytes - int(freed or 0),
            thinned_rows=Track.thinned_rows + int(rows or 0),
        )
    )


def _segments(connection: sa.Connection, track_pk: int) -> list[Segment]:
    wanted = (
        sa.select(Chunk.segment, Chunk.lo, Chunk.hi)
        .where(
            Chunk.track_pk == track_pk,
            Chunk.tier == 0,
            Chunk.group == AXIS_GROUP,
            Chunk.codec != AXIS_ALONE,
        )
        .order_by(Chunk.segment)
    )
    return [Segment(*row) for row in connection.execute(wanted)]


def _ended(connection: sa.Connection) -> list[Ended]:
    """Return the removable runs, the one with the oldest report first."""
    wanted = (
        sa.select(Run.pk, Run.last_report_at, Run.tags)
        .where(Run.state.not_in((*GONE, "running")))
        .order_by(Run.last_report_at)
    )
    found = [Ended(*row) for row in connection.execute(wanted)]
    return [run for run in found if KEEP_TAG not in msgspec.msgpack.decode(run.tags)]


def _parts(segments: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(segments), _SEGMENTS_AT_ONCE):
        yield segments[at : at + _SEGMENTS_AT_ONCE]
