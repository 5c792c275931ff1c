"""The compactor: moves rows from the log into compressed chunks, at all tiers.

Its thread also removes the rows of deleted runs (`removal`).

Comes in: tracks whose log holds enough rows for a segment, or whose process has ended.
Goes out: chunks; the log rows that they contain are deleted in the same transaction.
Promise:  compression runs outside of transactions; a segment is written atomically, once, by one
          collector; an ingest waits for one short transaction at most.
Start at `Compactor.run_once`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from trainvitals.wire import Frame
from trainvitals.wire.codec import read_frame
from trainvitals_server.store.blocks import CODEC, pack
from trainvitals_server.store.database import Database
from trainvitals_server.store.models import BatchKey, Chunk, LogFrame, Run, Source, Track
from trainvitals_server.store.removal import GONE, Removal
from trainvitals_server.store.tiers import TIER_FACTOR, TIERS, Spans
from trainvitals_server.store.track_rows import AXIS_GROUP, GROUP_SERIES, TrackShape, step_order

log = logging.getLogger(__name__)

SEGMENT_ROWS = 1024
WIDE_SEGMENT_ROWS = 256
WIDE_SERIES = 2000
"""A track with more series has shorter segments, so that a segment has a few megabytes at most."""
KEYS_KEPT = 256
"""Number of newest batch keys kept for each source. With the stored checksum, a repeated batch can
be distinguished from another batch with the same key."""
KEYS_PRUNED_MIN = 1024
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


class Compactor:
    """Seals due segments periodically in a background thread."""

    def __init__(self, database: Database, *, interval_s: float = 2.0) -> None:
        self._database = database
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._removal = Removal(database, self._stopping.is_set)
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
        while not self._stopping.wait(self._interval_s):
            try:
                while self.run_once() and not self._stopping.is_set():
                    pass
                self._removal.run_once()
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
                    self._seal(segment)
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
        wanted = (
            sa.select(LogFrame.pk, LogFrame.n, LogFrame.header, LogFrame.values)
            .where(LogFrame.track_pk == track.pk)
            .order_by(LogFrame.lo, LogFrame.pk)
        )
        keys: list[int] = []
        frames: list[Frame] = []
        count = 0
        with self._database.read() as connection:
            for pk, n, header, values in connection.execute(wanted):
                keys.append(pk)
                frames.append(read_frame(header, values))
                count += n
                if count >= segment_rows(track.series):
                    break
        if not keys:
            return None
        return _Segment(track, tuple(keys), tuple(frames))

    def _seal(self, segment: _Segment) -> None:
        chunks = chunks_of(segment.track, segment.frames)

        def write(connection: sa.Connection) -> None:
            track = sa.select(Track.segments).where(Track.pk == segment.track.pk)
            number = connection.scalar(track.with_for_update()) or 0
            rows = sa.select(sa.func.sum(LogFrame.n)).where(LogFrame.pk.in_(segment.log))
            logged = int(connection.scalar(rows) or 0)
            deleted = connection.execute(sa.delete(LogFrame).where(LogFrame.pk.in_(segment.log)))
            if deleted.rowcount != len(segment.log):
                raise RuntimeError(
                    "Another collector has sealed these rows; this segment is not written."
                )
            connection.execute(sa.insert(Chunk), [{**chunk, "segment": number} for chunk in chunks])
            connection.execute(
                sa.update(Track)
                .where(Track.pk == segment.track.pk)
                .values(segments=number + 1, log_rows=Track.log_rows - logged)
            )

        self._database.write(write)

    def _prune_keys(self) -> None:
        """Delete the oldest batch keys of each source; `sealed_to` replaces them."""
        long = sa.select(Source.pk).where(
            Source.batches - Source.sealed_to > KEYS_PRUNED_MIN + KEYS_KEPT
        )
        with self._database.read() as connection:
            sources = list(connection.scalars(long))
        for source_pk in sources:
            self._database.write(partial(prune_keys, source_pk=source_pk))


def prune_keys(connection: sa.Connection, source_pk: int) -> int:
    """Delete a source's keys below the first gap, except the newest; return the number deleted."""
    # Ingest locks the same row, so no batch is checked against the old `sealed_to` meanwhile.
    source = sa.select(Source.sealed_to).where(Source.pk == source_pk).with_for_update()
    sealed_to = connection.scalar(source) or 0
    mine = BatchKey.source_pk == source_pk
    seqs = np.fromiter(
        connection.scalars(sa.select(BatchKey.seq).where(mine).order_by(BatchKey.seq)), np.int64
    )
    unbroken = seqs == sealed_to + np.arange(len(seqs))
    whole = len(seqs) if unbroken.all() else int(np.argmin(unbroken))
    pruned = whole - KEYS_KEPT
    if pruned <= 0:
        return 0
    limit = sealed_to + pruned
    connection.execute(sa.delete(BatchKey).where(mine, BatchKey.seq < limit))
    connection.execute(sa.update(Source).where(Source.pk == source_pk).values(sealed_to=limit))
    return pruned


def series_of(
    track: TrackShape, frames: Sequence[Frame]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Return (steps, times, values) of all frames; `values` has one row for each series.

    Steps ascend. For a repeated step, the last frame is used.
    """
    steps = np.concatenate([frame.steps for frame in frames])
    times = np.concatenate([frame.times for frame in frames])
    values = np.empty((track.statistics, track.places, len(steps)), np.float32)
    at = 0
    # Transpose each frame on its own, in the CPU's cache. Joining the frames first and transposing
    # the result takes 4 to 6 times as long.
    for frame in frames:
        end = at + len(frame.steps)
        values[:, :, at:end] = frame.values.T
        at = end
    order = step_order(steps)
    return steps[order], times[order], values.reshape(track.series, at)[:, order]


def chunks_of(track: TrackShape, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """Return the chunks of one segment at all tiers, without the segment number."""
    steps, times, values = series_of(track, frames)
    axis = np.stack([steps, times.astype("<f8").view("<i8")])
    common = {"track_pk": track.pk, "lo": int(steps[0]), "hi": int(steps[-1])}
    chunks = [_chunk(common, 0, AXIS_GROUP, len(steps), axis)]
    groups = range(0, track.series, GROUP_SERIES)
    chunks += [
        _chunk(common, 0, at // GROUP_SERIES, len(steps), values[at : at + GROUP_SERIES])
        for at in groups
    ]
    for at in groups:
        rows = np.ascontiguousarray(values[at : at + GROUP_SERIES].T)
        spans = Spans.of_rows(steps, rows)
        for tier in TIERS:
            spans = spans.every(TIER_FACTOR)
            n = len(spans)
            if at == 0:
                ends = np.stack([spans.first, spans.last])
                chunks.append(_chunk(common, tier, AXIS_GROUP, n, ends))
            block = np.ascontiguousarray(spans.fields.transpose(0, 2, 1))
            chunks.append(_chunk(common, tier, at // GROUP_SERIES, n, block))
    return chunks


def _chunk(
    common: dict[str, Any], tier: int, group: int, n: int, block: np.ndarray[Any, Any]
) -> dict[str, Any]:
    blob, crc = pack(block)
    return {
        **common,
        "tier": tier,
        "group": group,
        "n": n,
        "codec": CODEC,
        "crc": crc,
        "blob": blob,
    }
