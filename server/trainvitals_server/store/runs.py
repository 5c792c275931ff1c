"""Run summaries for the run list, and the details of one run."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from trainvitals.api import schema
from trainvitals.api.schema import Finding, Verdict
from trainvitals.diagnosis.verdict import LOST
from trainvitals.wire import Dropped, Event, RunStart
from trainvitals_server.store.completeness import completeness
from trainvitals_server.store.models import Attempt, DroppedRow, EventRow, Run
from trainvitals_server.store.removal import BINNED, GONE
from trainvitals_server.store.run_summary import Sparkline
from trainvitals_server.store.text import plain
from trainvitals_server.store.types import RequestRefused, StoredRun

PAGE_MAX = 500
Sort = Literal["started_at", "last_report_at", "step", "name"]
_ORDERS: Final[dict[Sort, tuple[Any, Any]]] = {
    "started_at": (Run.started_at, tuple[float, int]),
    "last_report_at": (Run.last_report_at, tuple[float, int]),
    "step": (Run.step, tuple[int, int]),
    "name": (Run.name, tuple[str, int]),
}
"""Sort → (column, type of a cursor: the value of the last row, never NULL, and its key)."""
_EVENTS_MAX = 1000
_SUMMARY = [
    column
    for column in Run.__table__.columns
    if column.name not in {"about", "blind", "scalars", "not_watched", "search", "notes"}
]
_finding_decoder = msgspec.msgpack.Decoder(Finding)


def summaries(
    connection: sa.Connection,
    *,
    project: str | None = None,
    state: str | None = None,
    search: str | None = None,
    archived: bool = False,
    binned: bool = False,
    sort: Sort = "started_at",
    ascending: bool = False,
    limit: int = 100,
    cursor: str | None = None,
) -> tuple[list[StoredRun], str | None]:
    """Return a page of runs, by default newest start first, and the cursor of the next or None.

    `archived`: with the archived ones. `binned`: only those in the bin, also archived ones.

    Raises:
        RequestRefused: the cursor was not created by this function, with this `sort`.
    """
    limit = max(1, min(limit, PAGE_MAX))
    known = sa.select(*_SUMMARY).where(Run.state == BINNED if binned else Run.state.not_in(GONE))
    column, kind = _ORDERS[sort]
    order = [column, Run.pk] if ascending else [column.desc(), Run.pk.desc()]
    wanted = known.order_by(*order).limit(limit + 1)
    if project is not None:
        wanted = wanted.where(Run.project == project)
    if state is not None:
        wanted = wanted.where((Run.binned_state if binned else Run.state) == state)
    if not archived and not binned:
        wanted = wanted.where(Run.archived == sa.false())
    if search:
        wanted = wanted.where(Run.search.contains(search.lower(), autoescape=True))
    if cursor is not None:
        here, last = sa.tuple_(column, Run.pk), sa.tuple_(*_position(cursor, kind))
        wanted = wanted.where(here > last if ascending else here < last)
    rows = connection.execute(wanted).all()
    page = rows[:limit]
    following = _cursor(getattr(page[-1], sort), page[-1].pk) if len(rows) > limit else None
    return _summaries(connection, page), following


def summary(connection: sa.Connection, run_id: str) -> StoredRun | None:
    """Return one run, or None."""
    rows = connection.execute(_known(Run.id == run_id)).all()
    return _summaries(connection, rows)[0] if rows else None


def by_key(connection: sa.Connection, run_pk: int) -> StoredRun | None:
    """Return one run by its key, or None."""
    rows = connection.execute(_known(Run.pk == run_pk)).all()
    return _summaries(connection, rows)[0] if rows else None


def _known(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(*_SUMMARY).where(which, Run.state.not_in(GONE))


def _summaries(connection: sa.Connection, rows: Sequence[Any]) -> list[StoredRun]:
    counted = (
        sa.select(Attempt.run_pk, sa.func.count())
        .where(Attempt.run_pk.in_([row.pk for row in rows]))
        .group_by(Attempt.run_pk)
    )
    attempts = {row[0]: row[1] for row in connection.execute(counted)}
    return [_summary(row, attempts.get(row.pk, 1)) for row in rows]


def _summary(row: Any, attempts: int) -> StoredRun:
    return StoredRun(row.pk, row.changes, schema.Run(**_fields(row, attempts)))


def _fields(row: Any, attempts: int) -> dict[str, Any]:
    """Return the fields of `schema.Run` from a row of the table."""
    state = row.binned_state or row.state
    return {
        "id": row.binned_id or row.id,
        "project": row.project,
        "name": row.name,
        "state": state,
        "verdict": Verdict.FAILED if state in ("failed", "lost") else Verdict(row.verdict),
        "error": LOST if state == "lost" else row.error.decode(errors="replace"),
        "started_at": row.started_at,
        "last_report_at": row.last_report_at,
        "ended_at": row.ended_at,
        "step": row.step,
        "total_steps": row.total_steps,
        "loss": row.loss,
        "health": row.health,
        "headline": _finding_decoder.decode(row.headline) if row.headline else None,
        "findings": schema.Counts(row.error_count, row.warning_count, row.info_count),
        "sparkline": Sparkline.of(row.sparkline).shown(),
        "step_rate": row.step_rate,
        "tags": msgspec.msgpack.decode(row.tags, type=tuple[str, ...]),
        "attempt": attempts,
        "host": row.host,
        "overhead": row.overhead,
        "archived": row.archived,
        "deleted_at": row.deleted_at if row.state == BINNED else None,
    }


def _cursor(value: float | str, pk: int) -> str:
    blob = msgspec.msgpack.encode((value, pk))
    return base64.urlsafe_b64encode(blob).decode().rstrip("=")


def _position(cursor: str, kind: Any) -> tuple[float | str, int]:
    try:
        blob = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        value, pk = msgspec.msgpack.decode(blob, type=kind)
    except (ValueError, msgspec.MsgspecError) as error:
        raise _bad_cursor() from error
    is_value = "\x00" not in value if isinstance(value, str) else -(2**63) <= value < 2**63
    if not is_value or not 0 <= pk < 2**63:  # NaN is not in the range
        raise _bad_cursor()
    return value, pk


def _bad_cursor() -> RequestRefused:
    return RequestRefused("The cursor was not returned by this run list.", reason="cursor")


def dropped(connection: sa.Connection, run_pk: int) -> list[Dropped]:
    """Return the newest reports of dropped records, oldest first."""
    blobs = connection.scalars(_newest(DroppedRow.dropped, DroppedRow, run_pk))
    return [msgspec.msgpack.decode(blob, type=Dropped) for blob in blobs][::-1]


def detail(connection: sa.Connection, stored: StoredRun) -> schema.RunDetail:
    """Return a run with its reported metadata, its events and its dropped records."""
    row = connection.execute(
        sa.select(Run.about, Run.not_watched, Run.blind, Run.notes).where(Run.pk == stored.pk)
    ).one()
    about = start_record(row.about) or RunStart(0.0)
    return schema.RunDetail(
        **msgspec.structs.asdict(stored.run),
        blind=msgspec.msgpack.decode(row.blind, type=dict[str, str]),
        config=plain(about.config),
        metadata=schema.Metadata(
            about.git_commit, about.argv, about.versions, about.pid, plain(about.facts)
        ),
        dropped=[
            schema.Dropped(d.first_step, d.last_step, d.stream, d.reason, d.records)
            for d in dropped(connection, stored.pk)
        ],
        completeness=completeness(connection, stored.pk, stored.run.state),
        not_watched=not_watched(connection, stored.pk),
        events=[
            schema.Event(e.step, e.time, e.kind, e.text, plain(e.attributes))
            for e in events(connection, stored.pk)
        ],
        notes=(row.notes or b"").decode(errors="replace"),
    )


def not_watched(connection: sa.Connection, run_pk: int) -> dict[str, str]:
    """Return name → the reason why it is not measured."""
    blob = connection.scalar(sa.select(Run.not_watched).where(Run.pk == run_pk))
    return msgspec.msgpack.decode(blob, type=dict[str, str]) if blob else {}


def events(connection: sa.Connection, run_pk: int) -> tuple[Event, ...]:
    """Return the newest events of a run, oldest first."""
    blobs = connection.scalars(_newest(EventRow.event, EventRow, run_pk))
    return tuple(msgspec.msgpack.decode(blob, type=Event) for blob in blobs)[::-1]


def start_record(about: bytes) -> RunStart | None:
    """Return the RunStart record in a run's row; None when the run has not sent one."""
    if about == msgspec.msgpack.encode({}):
        return None
    return msgspec.msgpack.decode(about, type=RunStart)


def _newest(column: Any, table: Any, run_pk: int) -> sa.Select[Any]:
    wanted = sa.select(column).where(table.run_pk == run_pk)
    return wanted.order_by(table.pk.desc()).limit(_EVENTS_MAX)
