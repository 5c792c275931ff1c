"""The compactor: moves rows from the log into compressed chunks, at all tiers.

Its thread also removes the rows of deleted runs (`removal`) and applies the budgets (`retention`).

Comes in: tracks whose log holds enough rows for a segment, or whose process has ended.
Goes out: chunks; the log rows that they contain are deleted in the same transaction.
Promise:  compression runs outside of transactions; a segment is written atomically, once, by one
          collector; an ingest waits for one short transaction at most.
Start at `Compactor.run_once`.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from trainvitals.wire import Frame
from trainvitals.wire.codec import read_frame
from trainvitals_server.store import statements
from trainvitals_server.store.chunks import row_chunks, span_chunks
from trainvitals_server.store.database import Database
from trainvitals_server.store.merge import merge_due
from trainvitals_server.store.models import (
    BatchKey,
    LogFrame,
    PrunedKeys,
    Run,
    Source,
    Track,
)
from trainvitals_server.store.removal import GONE, Removal
from trainvitals_server.store.retention import Retention, RetentionLimits
from trainvitals_server.store.shrink import Shrinking
from trainvitals_server.store.tiers import TIER_FACTOR, Spans
from trainvitals_server.store.track_rows import TrackShape, step_order

log = logging.getLogger(__name__)

SEGMENT_ROWS = 1024
WIDE_SEGMENT_ROWS = 256
WIDE_SERIES = 2000
"""A track with more series has shorter segments, so that a segment has a few megabytes at most."""
KEYS_KEPT = 256
"""Number of newest batch keys kept for each source. With the stored checksum, a repeated batch can
be distinguished from another batch with the same key."""
KEYS_PRUNED_MIN = 1024
RETENTION_INTERVAL_S = 30.0
SEAL_NICENESS = 10
"""Added to the niceness of the process. The sealing thread gets about a tenth of a core for which
another thread competes, and all of it otherwise."""
TRANSPOSED_PLACES = 8
_CLAIM = 1 << 30  # claim keys of tracks start here; claim keys of runs are below


def segment_rows(series: int) -> int:
    """Return the number of rows in a segment."""
    return WIDE_SEGMENT_ROWS if series > WIDE_SERIES else SEGMENT_ROWS


@dataclass(frozen=True)
class _Segment:
    """Frames that are sealed together."""

    track: TrackShape
    log: tuple[int, ...]
    """Primary keys of the log rows."""
    frames: tuple[Frame, ...]
    rows: int


class Compactor:
    """Seals due segments periodically in a background thread."""

    def __init__(
        self,
        database: Database,
        *,
        interval_s: float = 2.0,
        limits: RetentionLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._removal = Removal(database, self._stopping.is_set)
        self._retention = Retention(
            database, limits or RetentionLimits(), clock, self._stopping.is_set
        )
        self._shrinking = Shrinking(database, self._stopping.is_set)
        self._thread = threading.Thread(target=self._run, name="trainvitals-seal", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the current segment and stop the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(30)

    def _run(self) -> None:
        yield_to_ingest()
        retained_at = -math.inf
        while not self._stopping.wait(self._interval_s):
            try:
                while self.run_once() and not self._stopping.is_set():
                    pass
                self._removal.run_once()
                if monotonic() >= retained_at + RETENTION_INTERVAL_S:
                    self._retention.run_once()
                    self._shrinking.run_once()
                    retained_at = monotonic()
            except Exception:
                # Unsealed rows stay readable in the log, so the next interval tries again.
                log.exception(
                    "Sealing failed; no data is lost. The next attempt is in %g s.",
                    self._interval_s,
                )

    def run_once(self, *, everything: bool = False) -> int:
        """Seal one segment of each due track; return the number of sealed segments.

        With `everything`, also seal tracks with less than a whole segment.
        """
        sealed = 0
        for track in self._due(everything):
            if self._stopping.is_set():
                break
            with self._database.claim(_CLAIM + track.pk % _CLAIM) as mine:
                if mine and (segment := self._next_segment(track)) is not None:
                    if (self._seal(segment) + 1) % TIER_FACTOR == 0:
                        merge_due(self._database, track)
                    sealed += 1
        self._prune_keys()
        return sealed

    def _due(self, everything: bool) -> list[TrackShape]:
        wide = Track.places * Track.statistics > WIDE_SERIES
        enough = sa.case((wide, WIDE_SEGMENT_ROWS), else_=SEGMENT_ROWS)
        over = sa.or_(Source.ended, Run.state != "running")
        wanted = (
            sa.select(Track.pk, Track.places, Track.statistics)
            .join(Source, Source.pk == Track.source_pk)
            .join(Run, Run.pk == Source.run_pk)
            .where(Track.log_rows > 0, Run.state.not_in(GONE))
        )
        if not everything:
            wanted = wanted.where(sa.or_(Track.log_rows >= enough, over))
        with self._database.read() as connection:
            return [TrackShape(*row) for row in connection.execute(wanted)]

    def _next_segment(self, track: TrackShape) -> _Segment | None:
        # Sort the keys alone: SQLite would copy the values of the whole log to sort the rows.
        in_order = (
            sa.select(LogFrame.pk, LogFrame.n)
            .where(LogFrame.track_pk == track.pk)
            .order_by(LogFrame.lo, LogFrame.pk)
        )
        keys: list[int] = []
        count = 0
        with self._database.read() as connection:
            for pk, n in connection.execute(in_order):
                keys.append(pk)
                count += n
                if count >= segment_rows(track.series):
                    break
            wanted = sa.select(LogFrame.pk, LogFrame.header, LogFrame.values)
            rows = connection.execute(wanted.where(LogFrame.pk.in_(keys)))
            frames = {pk: read_frame(header, values) for pk, header, values in rows}
        if not keys:
            return None
        return _Segment(track, tuple(keys), tuple(frames[pk] for pk in keys), count)

    def _seal(self, segment: _Segment) -> int:
        """Write a segment; return its number in the track."""
        chunks = chunks_of(segment.track, segment.frames)
        sizes = {
            rows: sum(len(chunk["blob"]) for chunk in chunks if (chunk["tier"] == 0) is rows)
            for rows in (True, False)
        }

        def write(connection: sa.Connection) -> int:
            track = sa.select(Track.segments).where(Track.pk == segment.track.pk)
            number = connection.scalar(track.with_for_update()) or 0
            if statements.delete_frames(connection, segment.log) != len(segment.log):
                raise RuntimeError(
                    "Another collector has sealed these rows; this segment is not written."
                )
            rows = ({**chunk, "segment": number} for chunk in chunks)
            statements.NEW_CHUNKS.run(connection, *rows)
            connection.execute(
                sa.update(Track)
                .where(Track.pk == segment.track.pk)
                .values(
                    segments=number + 1,
                    log_rows=Track.log_rows - segment.rows,
                    sealed_bytes=Track.sealed_bytes + sizes[True],
                    span_bytes=Track.span_bytes + sizes[False],
                )
            )
            return number

        return self._database.write(write)

    def _prune_keys(self) -> None:
        """Delete the oldest batch keys of each source; `sealed_to` replaces them."""
        long = sa.select(Source.pk).where(
            Source.batches - Source.sealed_to > KEYS_PRUNED_MIN + KEYS_KEPT
        )
        with self._database.read() as connection:
            sources = list(connection.scalars(long))
        for source_pk in sources:
            self._database.write(partial(prune_keys, source_pk=source_pk))


def yield_to_ingest() -> None:
    """Lower the priority of the calling thread: acknowledgements go before sealing.

    Sealing takes half of the collector's CPU time. On a machine whose cores are all busy, the
    threads that receive and commit then wait less for a core. Linux only: elsewhere the priority is
    that of the process.

    Source: setpriority(2), "C library/kernel differences": PRIO_PROCESS accepts a thread's id.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # Relative: to set a lower niceness than the present one is not permitted.
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + SEAL_NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, 19))


def prune_keys(connection: sa.Connection, source_pk: int) -> int:
    """Delete a source's keys below the first gap, except the newest; return the number deleted."""
    # Ingest locks the same row, so no batch is checked against the old `sealed_to` meanwhile.
    source = sa.select(Source.sealed_to).where(Source.pk == source_pk).with_for_update()
    sealed_to = connection.scalar(source) or 0
    mine = BatchKey.source_pk == source_pk
    keys = sa.select(BatchKey.seq, BatchKey.crc).where(mine).order_by(BatchKey.seq)
    stored = np.array(connection.execute(keys).all(), np.int64).reshape(-1, 2)
    seqs = stored[:, 0]
    unbroken = seqs == sealed_to + np.arange(len(seqs))
    whole = len(seqs) if unbroken.all() else int(np.argmin(unbroken))
    pruned = whole - KEYS_KEPT
    if pruned <= 0:
        return 0
    limit = sealed_to + pruned
    crcs = stored[:pruned, 1].astype("<u4").tobytes()
    row = {"source_pk": source_pk, "lo": sealed_to, "crcs": crcs}
    connection.execute(sa.insert(PrunedKeys), [row])
    connection.execute(sa.delete(BatchKey).where(mine, BatchKey.seq < limit))
    connection.execute(sa.update(Source).where(Source.pk == source_pk).values(sealed_to=limit))
    return pruned


def rows_of(
    frames: Sequence[Frame],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Return (steps, times, values) of all frames; `values` is (rows, places × statistics).

    Steps ascend. For a repeated step, the last frame is used.
    """
    steps = np.concatenate([frame.steps for frame in frames])
    times = np.concatenate([frame.times for frame in frames])
    values = np.concatenate([frame.values.reshape(len(frame.steps), -1) for frame in frames])
    order = step_order(steps)
    return steps[order], times[order], values[order]


def chunks_of(track: TrackShape, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """Return the chunks of one segment at tiers 0 and 1, without the segment number."""
    steps, times, values = rows_of(frames)
    columns = np.empty((track.statistics, track.places, len(steps)), np.float32)
    rows = values.reshape(len(steps), track.places, track.statistics)
    # Transpose some places at a time, in the CPU's cache: each series is written in one pass.
    for at in range(0, track.places, TRANSPOSED_PLACES):
        some = slice(at, at + TRANSPOSED_PLACES)
        columns[:, some] = rows[:, some].T
    spans = Spans.folded_rows(steps, values, TIER_FACTOR)
    shape = (*spans.fields.shape[:2], track.places, track.statistics)
    fields = spans.fields.reshape(shape).swapaxes(2, 3).reshape(*shape[:2], track.series)
    spans = replace(spans, fields=fields)
    chunks = row_chunks(steps, times, columns.reshape(track.series, len(steps))) + span_chunks(
        spans, 1
    )
    return [{**chunk, "track_pk": track.pk, "segments": 1} for chunk in chunks]
