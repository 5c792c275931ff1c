"""Store one batch in one transaction.

Comes in: a decoded batch and its checksum.
Goes out: rows of the tables run, attempt, source, batch, track, ingest_log, event and dropped.
Promise:  the key (source, seq) is inserted in the same transaction as the batch's records; a
          batch that is inconsistent with stored data is refused as a whole.
Start at `Writing.run`; `prepare` runs before it, outside the transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from trainvitals.api.schema import Verdict
from trainvitals.wire import (
    Dropped,
    Event,
    Frame,
    Heartbeat,
    Layout,
    NotWatched,
    RunEnd,
    RunStart,
    Stream,
)
from trainvitals_server.store import statements
from trainvitals_server.store.layouts import LayoutCache
from trainvitals_server.store.models import Attempt, Run, Source, Track
from trainvitals_server.store.prepare import Prepared
from trainvitals_server.store.removal import GONE
from trainvitals_server.store.run_summary import RunUpdate
from trainvitals_server.store.text import storable
from trainvitals_server.store.types import Ack, Conflict, RequestRefused


@dataclass
class Writing:
    """Writes one prepared batch with one connection."""

    connection: sa.Connection
    prepared: Prepared
    layouts: LayoutCache
    now: float

    def run(self) -> Ack:
        """Store the batch; return `stored=False` when it was stored before.

        Raises:
            Conflict: the key belongs to another batch, or the run belongs to another project.
            RequestRefused: the source has not sent a frame's layout, or the frame has another
                shape than its layout.
        """
        batch = self.prepared.batch
        run, source = self._run_and_source()
        if source.run_pk != run.pk:
            owner = sa.select(Run.state).where(Run.pk == source.run_pk)
            if self.connection.scalar(owner) in GONE:
                raise Conflict(
                    f"The run {batch.run!r} of this process was deleted. A new start of the "
                    "training begins a new run.",
                    reason="run_deleted",
                )
            raise Conflict(
                f"Source {batch.source.hex()} belongs to a different run than {batch.run!r}.",
                reason="conflict",
            )
        primary = self._primary_if_new(source)
        if primary is None:
            return Ack(batch.source, batch.seq, stored=False)
        newest, rank = primary
        is_newest = newest == source.attempt_pk
        update = RunUpdate.of(run, is_newest and rank == source.rank, self.now, is_newest)
        tracks = self._tracks(source.pk)
        rows: dict[int, int] = {}
        log: list[dict[str, Any]] = []
        for position, record in enumerate(batch.records):
            if isinstance(record, Frame):
                track = self._fitting(tracks, record)
                log.append(self._log_row(track.pk, position, record))
                rows[track.pk] = rows.get(track.pk, 0) + len(record.steps)
                update.frame(record, track.layout)
            elif isinstance(record, Layout):
                self._announce(tracks, source.pk, record)
            else:
                self._other(run.pk, source, record)
                update.record(record)
        with statements.one_exchange(self.connection):
            self._write_log(log, rows)
            self._touch(source)
            statements.UPDATE_RUN.run(self.connection, {**update.columns(), "own_pk": run.pk})
        return Ack(batch.source, batch.seq, stored=True, records=len(batch.records))

    # --- identity ----------------------------------------------------------------------------

    def _run_and_source(self) -> tuple[Any, _KnownSource]:
        """Return the batch's run and source, which are made if they are new."""
        run, source = statements.ask(
            self.connection,
            (statements.RUN, {"id": self.prepared.batch.run}),
            (statements.SOURCE, {"key": self.prepared.batch.source}),
        )
        run = self._run(run)
        return run, self._source(run.pk, source)

    def _run(self, run: Any) -> Any:
        """Return the batch's run; `run` is the row of that id, or None."""
        batch = self.prepared.batch
        if run is None or run.project != batch.project:
            # Two projects may use one name. The project that came second has a longer id.
            longer = qualified(batch.project, batch.run)
            taken, run = run is not None, self._stored_run(longer)
            if run is None:
                run_id = longer if taken else batch.run
                new = statements.insert_or_ignore(self.connection, Run)
                self.connection.execute(new.values(self._new_run(run_id)))
                run = self._stored_run(run_id)
        if run is None or run.project != batch.project:
            raise Conflict(
                # Without the other project's name: the token may not give access to it.
                f"Run {batch.run!r} is not in project {batch.project!r}. Give the run another "
                "name.",
                reason="run_in_other_project",
            )
        return run

    def _stored_run(self, run_id: str) -> Any:
        return statements.RUN.one(self.connection, {"id": run_id})

    def _new_run(self, run_id: str) -> dict[str, Any]:
        batch = self.prepared.batch
        nothing = msgspec.msgpack.encode({})
        return {
            "id": run_id,
            "project": batch.project,
            "name": batch.run,
            "state": "running",
            "started_at": batch.sent_at,
            "last_report_at": self.now,
            "step": -1,
            "host": "",
            "error_count": 0,
            "warning_count": 0,
            "info_count": 0,
            "tags": msgspec.msgpack.encode(()),
            "search": f"{batch.run} {batch.project}".lower(),
            "sparkline": msgspec.msgpack.encode((1, [])),
            "verdict": str(Verdict.TOO_EARLY),
            "blind": nothing,
            "error": b"",
            "scalars": nothing,
            "about": nothing,
            "not_watched": nothing,
            "archived": False,
            "edited": "",
            "revision": 0,
            "rounded": 0,
            "changes": 0,
        }

    def _source(self, run_pk: int, row: Any) -> _KnownSource:
        """Return the batch's source; `row` is the stored one, or None."""
        batch = self.prepared.batch
        if row is None:
            start = next((r for r in batch.records if isinstance(r, RunStart)), None)
            values = {
                "key": batch.source,
                "run_pk": run_pk,
                "attempt_pk": self._attempt(run_pk, start),
                "rank": batch.rank,
                "host": storable(start.host) if start else "",
                "pid": start.pid if start else 0,
                "first_seen_at": self.now,
                "last_seq": -1,
                "batches": 0,
                "sealed_to": 0,
                "ended": False,
                "records": 0,
                "produced": 0,
                "dropped": 0,
            }
            new = statements.insert_or_ignore(self.connection, Source)
            self.connection.execute(new.values(values))
            row = statements.SOURCE.one(self.connection, {"key": batch.source})
        return _KnownSource(*row)

    def _attempt(self, run_pk: int, start: RunStart | None) -> int:
        """Return the attempt of a new source.

        It is the newest attempt, or a new one when the newest already has a source of this rank.
        """
        batch = self.prepared.batch
        newest: int | None = self.connection.scalar(statements.NEWEST_ATTEMPT, {"run_pk": run_pk})
        if newest is not None:
            has_rank = sa.select(Source.pk).where(
                Source.attempt_pk == newest, Source.rank == batch.rank
            )
            if self.connection.scalar(has_rank.limit(1)) is None:
                return newest
        started_at = start.started_at if start else batch.sent_at
        new = sa.insert(Attempt).values(run_pk=run_pk, started_at=started_at)
        return int(self.connection.scalar(new.returning(Attempt.pk)) or 0)

    def _primary_if_new(self, source: _KnownSource) -> tuple[int, int] | None:
        """Return the run's newest attempt and its lowest rank; None if the batch is stored already.

        Stores the key of a new batch.
        """
        batch, crc = self.prepared.batch, self.prepared.crc
        key = {"source_pk": source.pk, "seq": batch.seq}
        if batch.seq < source.sealed_to:
            self._check_crc(self._pruned_crc(key), crc)
            return None
        new, primary = statements.ask(
            self.connection,
            (statements.new_batch_key(self.connection.dialect.name), {**key, "crc": crc}),
            (statements.PRIMARY, {"run_pk": source.run_pk}),
        )
        if new is not None:
            return primary.attempt_pk, primary.rank
        stored = statements.BATCH_CRC.one(self.connection, key)
        self._check_crc(None if stored is None else stored.crc, crc)
        return None

    def _pruned_crc(self, key: dict[str, int]) -> int | None:
        """Return the checksum of a batch whose key was pruned; None when it was not kept."""
        row = statements.PRUNED_CRCS.one(self.connection, key)
        at = None if row is None else 4 * (key["seq"] - row.lo)
        if row is None or at is None or at >= len(row.crcs):
            return None
        return int.from_bytes(row.crcs[at : at + 4], "little")

    def _check_crc(self, stored: int | None, crc: int) -> None:
        if stored is not None and stored != crc:
            batch = self.prepared.batch
            raise Conflict(
                f"Batch {batch.seq} of source {batch.source.hex()} is stored with checksum "
                f"{stored:08x}; this batch has checksum {crc:08x}. A source must not use a "
                "sequence number twice.",
                reason="conflict",
            )

    # --- frames ------------------------------------------------------------------------------

    def _tracks(self, source_pk: int) -> dict[tuple[Stream, int], _KnownTrack]:
        wanted = {
            (str(r.stream), r.layout if isinstance(r, Frame) else r.version)
            for r in self.prepared.batch.records
            if isinstance(r, Frame | Layout)
        }
        if not wanted:
            return {}
        source = self.prepared.batch.source
        found = self.layouts.tracks(self.connection, source_pk, source, wanted)
        return {
            (Stream(stream), version): _KnownTrack(
                pk, self.layouts.get(self.connection, pk, source)
            )
            for (stream, version), pk in found.items()
        }

    def _announce(
        self, tracks: dict[tuple[Stream, int], _KnownTrack], source_pk: int, layout: Layout
    ) -> None:
        known = tracks.get((layout.stream, layout.version))
        if known is not None:
            if known.layout != layout:
                raise RequestRefused(
                    f"Layout {layout.version} of stream {layout.stream} was announced with other "
                    "rows or columns. A changed set of tensors needs a new layout version.",
                    reason="shape_mismatch",
                )
            return
        new = sa.insert(Track).values(
            source_pk=source_pk,
            stream=str(layout.stream),
            version=layout.version,
            layout=msgspec.msgpack.encode(layout),
            places=len(layout.places),
            statistics=len(layout.statistics),
            rows=0,
            log_rows=0,
            segments=0,
            sealed_bytes=0,
            span_bytes=0,
            thinned_rows=0,
        )
        pk = int(self.connection.scalar(new.returning(Track.pk)) or 0)
        tracks[layout.stream, layout.version] = _KnownTrack(pk, layout)

    def _fitting(self, tracks: dict[tuple[Stream, int], _KnownTrack], frame: Frame) -> _KnownTrack:
        track = tracks.get((frame.stream, frame.layout))
        if track is None:
            raise RequestRefused(
                f"A frame of stream {frame.stream} refers to layout {frame.layout}, which this "
                "source has not announced.",
                reason="unknown_layout",
            )
        shape = (len(track.layout.places), len(track.layout.statistics))
        if frame.values.shape[1:] != shape:
            raise RequestRefused(
                f"A frame of stream {frame.stream} has {frame.values.shape[1]} places and "
                f"{frame.values.shape[2]} statistics; its layout {frame.layout} has {shape[0]} "
                f"and {shape[1]}.",
                reason="shape_mismatch",
            )
        return track

    def _log_row(self, track_pk: int, part: int, frame: Frame) -> dict[str, Any]:
        header, values = self.prepared.frames[part]
        return {
            "track_pk": track_pk,
            "seq": self.prepared.batch.seq,
            "part": part,
            "lo": int(frame.steps[0]),
            "hi": int(frame.steps[-1]),
            "n": len(frame.steps),
            "header": header,
            "values": values,
        }

    def _write_log(self, log: list[dict[str, Any]], rows: dict[int, int]) -> None:
        if log:
            statements.NEW_FRAMES.run(self.connection, *log)
            statements.add_rows(self.connection, rows)

    # --- the rest ----------------------------------------------------------------------------

    def _other(self, run_pk: int, source: _KnownSource, record: object) -> None:
        owner = {"run_pk": run_pk, "source_pk": source.pk}
        match record:
            case Event():
                values = {**owner, "event": msgspec.msgpack.encode(record)}
                statements.NEW_EVENTS.run(self.connection, values)
            case Dropped():
                values = {
                    **owner,
                    "reason": storable(record.reason),
                    "records": record.records,
                    "dropped": msgspec.msgpack.encode(record),
                }
                statements.NEW_DROPPED.run(self.connection, values)
            case RunEnd():
                source.end = record
            case RunStart() | Heartbeat() | NotWatched():
                pass  # stored in the run's row by RunUpdate
            case _:
                raise AssertionError(f"unknown record type: {type(record).__name__}")

    def _touch(self, source: _KnownSource) -> None:
        values: dict[str, Any] = {
            "last_seq": max(source.last_seq, self.prepared.batch.seq),
            "batches": source.batches + 1,
            "records": _sum(source.records, self.prepared.batch.counted),
        }
        if source.end is not None:
            values |= {
                "ended": True,
                "produced": source.end.produced,
                "dropped": source.end.dropped,
            }
        statements.UPDATE_SOURCE.run(self.connection, {**values, "own_pk": source.pk})


def qualified(project: str, run: str) -> str:
    """Return the id of a run whose name another project uses already."""
    return f"{project}::{run}"


@dataclass
class _KnownSource:
    pk: int
    run_pk: int
    attempt_pk: int
    rank: int
    sealed_to: int
    last_seq: int
    batches: int
    records: int | None
    end: RunEnd | None = None


@dataclass(frozen=True)
class _KnownTrack:
    pk: int
    layout: Layout


def _sum(stored: int | None, new: int | None) -> int | None:
    return None if stored is None or new is None else stored + new
