"""Changes that users make to a run: name, tags, notes, archiving, deleting and undeleting.

Comes in: a run's key, the changes, who made them. Goes out: the run's row and one event.
Promise:  the change and its event are in one transaction. A name and tags that a user has set stay
          when the training reports again.
Start at `edit`, `put_into_bin` and `bring_back`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from trainvitals.wire import Event, EventKind, RunStart
from trainvitals_server.store.models import EventRow, Run, Source
from trainvitals_server.store.removal import BINNED, GONE, random_id
from trainvitals_server.store.run_summary import searched
from trainvitals_server.store.runs import start_record
from trainvitals_server.store.text import storable
from trainvitals_server.store.types import RequestRefused


@dataclass(frozen=True)
class Author:
    """Who changes a run, and when."""

    token: str
    """The id of the token."""
    now: float


def edit(connection: sa.Connection, run_pk: int, changes: dict[str, Any], author: Author) -> None:
    """Apply changes of name, tags, notes and archived; None is what the training reported.

    Values that are equal to the stored ones are not a change and produce no event.

    Raises:
        RequestRefused: the run was deleted (unknown_run).
    """
    run = _locked(connection, run_pk)
    if run.state in GONE:
        raise RequestRefused("The run was deleted.", reason="unknown_run")
    reported = start_record(run.about) or RunStart(0.0)
    edited = set(run.edited.split())
    values: dict[str, Any] = {}
    if "name" in changes:
        _mark(edited, "name", changes["name"] is not None)
        original = storable(reported.name) or run.id.removeprefix(f"{run.project}::")
        values["name"] = original if changes["name"] is None else changes["name"]
    if "tags" in changes:
        _mark(edited, "tags", changes["tags"] is not None)
        tags = reported.tags if changes["tags"] is None else changes["tags"]
        values["tags"] = msgspec.msgpack.encode(tuple(tags))
    if "notes" in changes:
        values["notes"] = (changes["notes"] or "").encode() or None
    if "archived" in changes:
        values["archived"] = bool(changes["archived"])
    changed = [name for name, value in values.items() if getattr(run, name) != value]
    values["edited"] = " ".join(sorted(edited))
    if not changed and values["edited"] == run.edited:
        return
    after = {**run._mapping, **values}
    decoded = msgspec.msgpack.decode(after["tags"], type=tuple[str, ...])
    values["search"] = searched(run.id, run.project, after["name"], run.host, decoded)
    _write(connection, run_pk, values)
    if "archived" in changed and not values["archived"]:
        changed[changed.index("archived")] = "unarchived"
    if changed:
        _record(connection, run, ", ".join(changed), author)


def put_into_bin(connection: sa.Connection, run_pk: int, author: Author) -> None:
    """Hide a run from every reader, until it is restored or removed.

    Its id is free: a run with this id can begin anew.
    """
    run = _locked(connection, run_pk)
    if run.state in GONE:
        return
    values = {
        "id": random_id(run_pk),
        "binned_id": run.id,
        "binned_state": run.state,
        "state": BINNED,
        "deleted_at": author.now,
        # A round of diagnosis is for runs that are shown.
        "rounded": run.revision,
    }
    _write(connection, run_pk, values)
    _record(connection, run, "deleted", author)


def bring_back(connection: sa.Connection, run_pk: int, author: Author) -> None:
    """Restore a run from the bin.

    Raises:
        RequestRefused: another run has its id now (run_exists), or it was removed (unknown_run).
    """
    run = _locked(connection, run_pk)
    if run.state != BINNED:
        raise RequestRefused("The run is no longer in the bin.", reason="unknown_run")
    taken = sa.select(Run.pk).where(Run.id == run.binned_id)
    if connection.scalar(taken) is not None:
        raise RequestRefused(
            "A new run has the id of the deleted one. Delete the new run to restore the old one.",
            reason="run_exists",
        )
    values = {
        "id": run.binned_id,
        "state": run.binned_state,
        "binned_id": None,
        "binned_state": None,
        "deleted_at": None,
    }
    _write(connection, run_pk, values)
    _record(connection, run, "undeleted", author)


def in_bin(connection: sa.Connection, run_id: str) -> list[tuple[int, str]]:
    """Return (key, project) of the runs in the bin that had this id, the newest deleted first."""
    wanted = (
        sa.select(Run.pk, Run.project)
        .where(Run.state == BINNED, Run.binned_id == run_id)
        .order_by(Run.deleted_at.desc(), Run.pk.desc())
    )
    return [(row.pk, row.project) for row in connection.execute(wanted)]


def _mark(edited: set[str], name: str, is_edited: bool) -> None:
    if is_edited:
        edited.add(name)
    else:
        edited.discard(name)


def _locked(connection: sa.Connection, run_pk: int) -> Any:
    return connection.execute(
        sa.select(Run.__table__).where(Run.pk == run_pk).with_for_update()
    ).one()


def _write(connection: sa.Connection, run_pk: int, values: dict[str, Any]) -> None:
    changed = sa.update(Run).where(Run.pk == run_pk).values(**values, changes=Run.changes + 1)
    connection.execute(changed)


def _record(connection: sa.Connection, run: Any, what: str, author: Author) -> None:
    """Store the event of a change; a run without any process has none."""
    source = sa.select(sa.func.max(Source.pk)).where(Source.run_pk == run.pk)
    source_pk = connection.scalar(source)
    if source_pk is None:
        return
    event = Event(
        max(run.step, 0), author.now, EventKind.RUN_CHANGED, what, {"token": author.token}
    )
    values = {
        "run_pk": run.pk,
        "source_pk": source_pk,
        "event": msgspec.msgpack.encode(event),
    }
    connection.execute(sa.insert(EventRow).values(**values))
