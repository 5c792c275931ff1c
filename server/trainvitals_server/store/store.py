"""The store: every database operation of the collector except tokens.

The store is synchronous and thread-safe: routes call it from a thread pool, the diagnosis rounds
and the compactor from their own threads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import sqlalchemy as sa

from trainvitals.api.schema import Checkup, Diagnosis, Finding, RunDetail
from trainvitals.diagnosis.history import History
from trainvitals.wire import Batch, Frame, Layout, Stat, Stream
from trainvitals_server.store import findings, runs
from trainvitals_server.store.database import Database, open_database
from trainvitals_server.store.edits import Author, bring_back, edit, in_bin, put_into_bin
from trainvitals_server.store.frames import frames
from trainvitals_server.store.histories import Histories
from trainvitals_server.store.ingest import Writing
from trainvitals_server.store.initial import initial
from trainvitals_server.store.latest import NewestValues, StreamLatest, newest_tracks
from trainvitals_server.store.layouts import LayoutCache
from trainvitals_server.store.migrate import migrate, parsed
from trainvitals_server.store.models import DroppedRow, Run
from trainvitals_server.store.prepare import prepare
from trainvitals_server.store.removal import hide
from trainvitals_server.store.series import Curves, curves, place_names
from trainvitals_server.store.series_limits import SeriesLimits
from trainvitals_server.store.timeline import EVERY_STEP, timeline
from trainvitals_server.store.types import Ack, Durability, StoredRun, Totals


class Store:
    """Stores batches; returns runs, series, histories and findings."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        limits: SeriesLimits | None = None,
    ) -> None:
        self.database = database
        self._clock = clock
        self._limits = limits or SeriesLimits()
        self._histories = Histories()
        self._layouts = LayoutCache()
        self._newest = NewestValues()

    @classmethod
    def open(
        cls,
        database_url: str,
        *,
        queue_bytes_max: int = 64 * 2**20,
        durability: Durability = "full",
        clock: Callable[[], float] = time.time,
        limits: SeriesLimits | None = None,
    ) -> Store:
        """Open the database, create or upgrade its tables, and return the store.

        Raises:
            StoreUnusable: the database cannot be opened, is damaged, or was upgraded by a newer
                trainvitals.
        """
        migrate(database_url)
        return cls(
            open_database(
                parsed(database_url), queue_bytes_max=queue_bytes_max, durability=durability
            ),
            clock=clock,
            limits=limits,
        )

    def close(self) -> None:
        """Write the queued batches and close."""
        self.database.close()

    # --- writing -------------------------------------------------------------------------------

    def ingest(self, batch: Batch, body: bytes) -> Ack:
        """Store a batch; return after it is committed, and synced unless the durability is fast.

        Idempotent: for a batch that is already stored, the result has `stored=False`.

        Raises:
            Conflict: its key was used for another body, or its run is in another project.
            RequestRefused: a frame has no layout, another shape than its layout, or invalid values;
                or the run or the collector has too many series.
            QueueFull: the write queue is full.
        """
        return self.submit(batch, body).result()

    def submit(self, batch: Batch, body: bytes) -> Future[Ack]:
        """Queue a batch, without waiting for the disk; the future has what `ingest` returns.

        Raises:
            RequestRefused: a value is invalid.
            QueueFull: the write queue is full.
        """
        prepared = prepare(batch, body)
        has_layouts = any(isinstance(record, Layout) for record in batch.records)

        def write(connection: sa.Connection) -> Ack:
            ack = Writing(connection, prepared, self._layouts, self._clock()).run()
            if has_layouts and ack.stored:
                self._limits.check(connection, batch.source)
            return ack

        def written(future: Future[Ack]) -> None:
            if not future.cancelled() and future.exception() is not None:
                # SQLite gives the key of a track that was rolled back to the source's next track.
                self._layouts.forget(batch.source)

        future = self.database.submit(write, size=prepared.size)
        future.add_done_callback(written)
        return future

    def delete(self, run_pk: int) -> None:
        """Delete a run. It is unknown at once; the compactor removes its rows afterwards."""
        self.database.write(lambda connection: hide(connection, run_pk))

    def edit(self, run_pk: int, changes: dict[str, Any], token: str) -> None:
        """Change name, tags, notes or archived of a run (`edits.edit`)."""
        author = Author(token, self._clock())
        self.database.write(lambda connection: edit(connection, run_pk, changes, author))

    def put_into_bin(self, run_pk: int, token: str) -> float:
        """Move a run to the bin; return the time."""
        author = Author(token, self._clock())
        self.database.write(lambda connection: put_into_bin(connection, run_pk, author))
        return author.now

    def bring_back(self, run_pk: int, token: str) -> None:
        """Restore a run from the bin. Raises RequestRefused: see `edits.bring_back`."""
        author = Author(token, self._clock())
        self.database.write(lambda connection: bring_back(connection, run_pk, author))

    def in_bin(self, run_id: str) -> list[tuple[int, str]]:
        """Return (key, project) of deleted runs with this id, the newest deleted first."""
        with self.database.read() as connection:
            return in_bin(connection, run_id)

    # --- rounds of diagnosis -----------------------------------------------------------------

    def runs_due(self, limit: int = 100) -> list[int]:
        """Return keys of runs with batches newer than their last round, oldest report first."""
        wanted = sa.select(Run.pk).where(Run.revision > Run.rounded).order_by(Run.last_report_at)
        with self.database.read() as connection:
            return list(connection.scalars(wanted.limit(limit)))

    @contextlib.contextmanager
    def claim_round(self, run_pk: int) -> Iterator[bool]:
        """Yield True when this collector diagnoses the run, False when another collector does.

        After the block the run is no longer due, unless a batch arrived in the meantime.
        """
        with self.database.claim(run_pk) as mine:
            if not mine:
                yield False
                return
            with self.database.read() as connection:
                revision = connection.scalar(sa.select(Run.revision).where(Run.pk == run_pk))
            yield True
            done = sa.update(Run).where(Run.pk == run_pk).values(rounded=revision or 0)
            self.database.write(lambda connection: connection.execute(done))

    def history(self, run_pk: int) -> History:
        """Return the input of the rules: first steps, sampled steps of the middle, newest steps.

        The history follows the run's timeline (see `timeline`). The next round uses the same
        object: do not modify it.
        """
        with self.database.read() as connection:
            return self._histories.get(connection, run_pk)

    def findings(self, run_pk: int) -> list[Finding]:
        """Return the findings of the last round in the order in which they were saved."""
        with self.database.read() as connection:
            return findings.load(connection, run_pk)

    def open_findings(self, run_pks: Sequence[int]) -> dict[int, dict[tuple[str, str], int]]:
        """Return run → (rule, severity) → number of open findings, for the metrics."""
        with self.database.read() as connection:
            return findings.open_counts(connection, run_pks)

    def save_diagnosis(self, run_pk: int, diagnosis: Diagnosis) -> None:
        """Replace a run's diagnosis with the one of the newest round."""
        now = self._clock()
        self.database.write(
            lambda connection: findings.save(connection, run_pk, diagnosis, now=now)
        )

    def mark_lost(self, now: float, after_s: float) -> int:
        """Set runs without a report for `after_s` seconds to `lost`; return their number."""
        silent = (
            sa.update(Run)
            .where(Run.state == "running", Run.last_report_at < now - after_s)
            .values(state="lost", changes=Run.changes + 1, revision=Run.revision + 1)
        )
        return self.database.write(lambda connection: connection.execute(silent).rowcount)

    # --- reading -------------------------------------------------------------------------------

    def run_summaries(
        self,
        *,
        project: str | None = None,
        state: str | None = None,
        search: str | None = None,
        archived: bool = False,
        binned: bool = False,
        sort: runs.Sort = "started_at",
        ascending: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[StoredRun], str | None]:
        """Return a page of runs, by default newest start first, and the next page's cursor or None.

        `archived`: with the archived ones. `binned`: only those in the bin.
        """
        with self.database.read() as connection:
            return runs.summaries(
                connection,
                project=project,
                state=state,
                search=search,
                archived=archived,
                binned=binned,
                sort=sort,
                ascending=ascending,
                limit=limit,
                cursor=cursor,
            )

    def run(self, run_id: str) -> StoredRun | None:
        """Return one run by its id, or None."""
        with self.database.read() as connection:
            return runs.summary(connection, run_id)

    def run_by_key(self, run_pk: int) -> StoredRun | None:
        """Return one run by its key, or None."""
        with self.database.read() as connection:
            return runs.by_key(connection, run_pk)

    def detail(self, stored: StoredRun) -> RunDetail:
        """Return a run with its reported metadata, its events and its dropped records."""
        with self.database.read() as connection:
            return runs.detail(connection, stored)

    def initial(self, run_pk: int) -> Checkup:
        """Return the state of a run before its training."""
        with self.database.read() as connection:
            return initial(connection, run_pk)

    def layouts(self, run_pk: int) -> list[Layout]:
        """Return the newest layout of each stream in the run's timeline."""
        with self.database.read() as connection:
            newest = {d.layout.stream: d.layout for d in timeline(connection, run_pk)}
        return list(newest.values())

    def latest(self, run_pk: int) -> list[StreamLatest]:
        """Return the newest value of every series, by stream."""
        with self.database.read() as connection:
            tracks = newest_tracks(timeline(connection, run_pk))
            return [self._newest.of(connection, run_pk, track) for track in tracks]

    def frames(
        self, run_pk: int, stream: Stream, from_step: int = 0
    ) -> tuple[Layout, Frame] | None:
        """Return the first rows of a stream from `from_step` on, as stored; None without rows."""
        with self.database.read() as connection:
            return frames(connection, run_pk, stream, from_step)

    def curves(
        self,
        run_pk: int,
        stream: Stream,
        statistic: Stat,
        places: Sequence[str] | None,
        *,
        lo: int = 0,
        hi: int = EVERY_STEP,
        points: int,
    ) -> Curves:
        """Return curves over lo ≤ step < hi in at most `points` spans.

        When `places` is None, return all places of the newest layout.

        Raises:
            UnknownSeries: the run has no such stream, statistic or place.
        """
        with self.database.read() as connection:
            return curves(
                connection, run_pk, stream, statistic, places, lo=lo, hi=hi, points=points
            )

    @contextlib.contextmanager
    def curves_of_all_places(
        self,
        run_pk: int,
        stream: Stream,
        statistic: Stat,
        *,
        lo: int = 0,
        hi: int = EVERY_STEP,
        points: int,
        split: Callable[[Sequence[str]], Sequence[Sequence[str]]],
    ) -> Iterator[Iterator[Curves]]:
        """Yield the curves of the slices of places that `split` makes of all places by depth.

        All curves are read from one snapshot, which ends with the block. `split` may leave places
        out and may change their order.

        Raises:
            UnknownSeries: the run has no such stream or statistic, or no place of a slice.
        """
        with self.database.read() as connection:
            parts = split(place_names(connection, run_pk, stream, statistic))
            yield (
                curves(connection, run_pk, stream, statistic, part, lo=lo, hi=hi, points=points)
                for part in parts
            )

    def totals(self) -> Totals:
        """Return the amounts of stored data, for the metrics."""
        by_reason = sa.select(DroppedRow.reason, sa.func.sum(DroppedRow.records)).group_by(
            DroppedRow.reason
        )
        with self.database.read() as connection:
            dropped = {reason: int(records) for reason, records in connection.execute(by_reason)}
        return Totals(bytes=self.database.size_bytes(), dropped=dropped)

    def ready(self) -> str | None:
        """Return None when batches can be stored, or the reason why they cannot."""
        try:
            with self.database.read() as connection:
                connection.execute(sa.select(Run.pk).limit(1))
        except sa.exc.SQLAlchemyError as error:
            return f"The database does not respond: {type(error).__name__}."
        return self.database.failed()
