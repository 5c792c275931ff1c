"""Read the open findings of all runs, grouped by run and rule, and what was sent about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from trainvitals.api.schema import Alert, Finding, Severity, State
from trainvitals_server.store.models import FindingRow, NotificationRow, Run
from trainvitals_server.store.removal import GONE

AT_ONCE: Final = 400
"""Runs, or findings, in one statement."""

_decoder = msgspec.msgpack.Decoder(Finding)


@dataclass(frozen=True)
class NoticeRow:
    """The state of the messages about one rule of one run to one channel."""

    run_pk: int
    run: str
    project: str
    rule: str
    channel: str
    is_open: bool
    pending: str
    opened_at: float
    next_at: float
    attempts: int


def alerts(
    connection: sa.Connection,
    *,
    project: str | None,
    state: str | None,
    severity: Severity,
    limit: int,
) -> list[tuple[int, Alert]]:
    """Return (key of the run, alert) of at most `limit` groups of open findings.

    `severity` is the lowest one. Running runs first, then by severity, then newest first.
    """
    row = FindingRow
    rank = sa.func.max(sa.case(*((row.severity == str(s), s.rank) for s in Severity), else_=0))
    about = (Run.pk, Run.id, Run.project, Run.name, Run.state, Run.last_report_at)
    opened_at, position = sa.func.min(row.opened_at), sa.func.min(row.position)
    wanted = (
        sa.select(
            *about, sa.func.count(), rank, sa.func.min(row.since_step), opened_at,
            position,
        )
        .join(row, row.run_pk == Run.pk)
        .where(row.state == str(State.OPEN), Run.state.not_in(GONE))
        .group_by(*about, row.code)
        .having(rank >= severity.rank)
        .order_by(sa.desc(Run.state == "running"), rank.desc(), opened_at.desc(), Run.pk, position)
        .limit(limit)
    )  # fmt: skip
    if project is not None:
        wanted = wanted.where(Run.project == project)
    if state is not None:
        wanted = wanted.where(Run.state == state)
    groups = connection.execute(wanted).all()
    first = _findings(connection, [(group[0], group[-1]) for group in groups])
    return [
        (group[0], _alert(group, finding))
        for group in groups
        if (finding := first.get((group[0], group[-1]))) is not None
    ]


def _alert(group: Any, finding: Finding) -> Alert:
    _, run, project, name, state, last_report_at, places, rank, since_step, opened_at, _ = group
    return Alert(
        run=run,
        project=project,
        name=name,
        state=state,
        last_report_at=last_report_at,
        rule=finding.rule,
        code=finding.code,
        severity=str(tuple(Severity)[rank]),  # type: ignore[arg-type]  # the three words
        places=places,
        where=finding.where,
        since_step=since_step,
        opened_at=opened_at,
        summary=finding.summary,
        explained_by=finding.explained_by,
    )


def _findings(
    connection: sa.Connection, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Finding]:
    """Return (run, position) → finding."""
    row, found = FindingRow, {}
    for i in range(0, len(places), AT_ONCE):
        wanted = sa.select(row.run_pk, row.position, row.finding).where(
            sa.tuple_(row.run_pk, row.position).in_(places[i : i + AT_ONCE])
        )
        for run_pk, position, blob in connection.execute(wanted):
            found[run_pk, position] = _decoder.decode(blob)
    return found


def notices(
    connection: sa.Connection,
    *,
    project: str | None = None,
    run_pks: Sequence[int] | None = None,
    limit: int,
) -> list[NoticeRow]:
    """Return the newest notices, newest first; with `run_pks`, of these runs only."""
    row = NotificationRow
    wanted = (
        sa.select(
            Run.pk, Run.id, Run.project, row.rule, row.channel, row.is_open, row.pending,
            row.opened_at, row.next_at, row.attempts,
        )
        .join(Run, Run.pk == row.run_pk)
        .where(Run.state.not_in(GONE))
        .order_by(row.opened_at.desc(), row.pk.desc())
        .limit(limit)
    )  # fmt: skip
    if project is not None:
        wanted = wanted.where(Run.project == project)
    parts = [None] if run_pks is None else range(0, len(run_pks), AT_ONCE)
    found = []
    for i in parts:
        part = wanted
        if i is not None and run_pks is not None:
            part = wanted.where(row.run_pk.in_(run_pks[i : i + AT_ONCE]))
        rows: Sequence[Any] = connection.execute(part).all()
        found += [NoticeRow(*values) for values in rows]
    return sorted(found, key=lambda notice: -notice.opened_at)[:limit]


def run_ids(connection: sa.Connection, project: str) -> list[str]:
    """Return the ids of the visible runs of a project, in no order."""
    wanted = sa.select(Run.id).where(Run.project == project, Run.state.not_in(GONE))
    return list(connection.scalars(wanted))
