"""The conditions of runs and the messages sent about them: the tables of the notifications.

Several collectors on one database send a message once: a row is unique for run, rule and channel,
and the collector that changes it first claims its delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from trainvitals.api.schema import Finding, State
from trainvitals_server.store.models import FindingRow, NotificationRow, Run
from trainvitals_server.store.removal import GONE

CLAIM_S: Final = 120.0
"""A delivery that takes longer is repeated, because its collector is assumed to have stopped."""
CONDITIONS_MAX: Final = 5000
"""Maximum number of conditions that are compared at once; newest reports first."""
RUN_STATES: Final = {"lost": "run_lost", "failed": "run_failed"}

_decoder = msgspec.msgpack.Decoder(Finding)


class Key(NamedTuple):
    """What a message is about."""

    run_pk: int
    rule: str


@dataclass(frozen=True)
class Condition:
    """Something that holds now: a rule of a run has open findings, or the run is lost or failed."""

    run_pk: int
    run: str
    project: str
    rule: str
    severity: str
    places: int
    """Number of open findings; 0 for the state of a run."""
    summary: str
    since_step: int
    last_report_at: float

    @property
    def key(self) -> Key:
        """What a message about it is about."""
        return Key(self.run_pk, self.rule)


@dataclass(frozen=True)
class Sent:
    """What was sent to one channel about one rule of one run."""

    pk: int
    is_open: bool
    pending: str
    """"opened" or "resolved": the message that is to be delivered; "" for none."""
    opened_at: float


@dataclass(frozen=True)
class Delivery:
    """A message that this collector has claimed."""

    pk: int
    event: str
    attempts: int
    """Number of attempts that failed."""
    opened_at: float
    message: bytes


def conditions(connection: sa.Connection, since: float) -> list[Condition]:
    """Return the conditions of the runs that reported after `since` or have an open row."""
    row, watched = FindingRow, _watched(since)
    wanted = (
        sa.select(
            Run.pk, Run.id, Run.project, Run.last_report_at, row.code,
            sa.func.count(), sa.func.max(row.pk),
        )
        .join(row, row.run_pk == Run.pk)
        # TV951 and run_lost report the same condition.
        .where(row.state == str(State.OPEN), row.code != "TV951", watched)
        .group_by(Run.pk, Run.id, Run.project, Run.last_report_at, row.code)
        .order_by(Run.last_report_at.desc())
        .limit(CONDITIONS_MAX)
    )  # fmt: skip
    groups = connection.execute(wanted).all()
    found = {}
    for i in range(0, len(groups), 500):
        keys = [group[-1] for group in groups[i : i + 500]]
        blobs = sa.select(row.pk, row.finding).where(row.pk.in_(keys))
        found.update({pk: _decoder.decode(blob) for pk, blob in connection.execute(blobs)})
    held = [
        Condition(
            run_pk, run, project, finding.rule, str(finding.severity), count, finding.summary,
            finding.since_step, last_report_at,
        )
        for run_pk, run, project, last_report_at, _, count, pk in groups
        if (finding := found.get(pk)) is not None
    ]  # fmt: skip
    states = sa.select(Run.pk, Run.id, Run.project, Run.last_report_at, Run.state, Run.step)
    for run_pk, run, project, last_report_at, state, step in connection.execute(
        states.where(Run.state.in_(RUN_STATES), watched).limit(CONDITIONS_MAX)
    ):
        says = "has stopped reporting" if state == "lost" else "ended with an exception"
        summary = f"The run {says} at step {step}."
        held.append(
            Condition(
                run_pk, run, project, RUN_STATES[state], "error", 0, summary, step, last_report_at
            )
        )
    return held


def _watched(since: float) -> sa.ColumnElement[bool]:
    open_rows = sa.select(NotificationRow.run_pk).where(NotificationRow.is_open == sa.true())
    return sa.and_(
        Run.state.not_in(GONE), sa.or_(Run.last_report_at > since, Run.pk.in_(open_rows))
    )


def sent(connection: sa.Connection, channel: str, run_pks: Sequence[int]) -> dict[Key, Sent]:
    """Return the open rows of a channel, and all its rows about these runs."""
    row = NotificationRow
    found: dict[Key, Sent] = {}
    columns = sa.select(row.run_pk, row.rule, row.pk, row.is_open, row.pending, row.opened_at)
    of_channel = columns.join(Run, Run.pk == row.run_pk).where(
        row.channel == channel, Run.state.not_in(GONE)
    )
    queries = [of_channel.where(row.is_open == sa.true())]
    queries += [
        of_channel.where(row.run_pk.in_(run_pks[i : i + 500])) for i in range(0, len(run_pks), 500)
    ]
    for query in queries:
        for run_pk, rule, pk, is_open, pending, opened_at in connection.execute(query):
            found[Key(run_pk, rule)] = Sent(pk, is_open, pending, opened_at)
    return found


def open_row(connection: sa.Connection, channel: str, key: Key, message: bytes, now: float) -> None:
    """Make a message due, unless another collector has made it."""
    engine = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {
        "run_pk": key.run_pk,
        "rule": key.rule,
        "channel": channel,
        "is_open": True,
        "pending": "opened",
        "opened_at": now,
        "next_at": now,
        "claimed_until": 0.0,
        "attempts": 0,
        "message": message,
    }
    connection.execute(engine.insert(NotificationRow).values(values).on_conflict_do_nothing())


def change_row(
    connection: sa.Connection,
    before: Sent,
    *,
    is_open: bool,
    pending: str,
    now: float,
    message: bytes | None = None,
) -> None:
    """Make another message due (`pending`), unless another collector has changed the row."""
    row = NotificationRow
    values: dict[str, object] = {
        "is_open": is_open,
        "pending": pending,
        "next_at": now,
        "claimed_until": 0.0,
        "attempts": 0,
    }
    if message is not None:
        values |= {"message": message, "opened_at": now}
    unchanged = (row.pk == before.pk, row.is_open == before.is_open, row.pending == before.pending)
    connection.execute(sa.update(row).where(*unchanged).values(values))


def _due(channel: str, now: float) -> sa.Select[int]:
    row = NotificationRow
    return sa.select(row.pk).where(
        row.channel == channel, row.pending != "", row.next_at <= now, row.claimed_until <= now
    )


def is_due(connection: sa.Connection, channel: str, now: float) -> bool:
    """Whether a message of the channel is due and not claimed."""
    return connection.scalar(_due(channel, now).limit(1)) is not None


def claim(connection: sa.Connection, channel: str, now: float, limit: int) -> list[Delivery]:
    """Claim due messages of a channel for CLAIM_S; other collectors do not deliver them."""
    row = NotificationRow
    due = _due(channel, now)
    claimed = []
    for pk in list(connection.scalars(due.order_by(row.next_at).limit(limit))):
        taken = (
            sa.update(row)
            .where(row.pk == pk, row.pending != "", row.claimed_until <= now)
            .values(claimed_until=now + CLAIM_S)
            .returning(row.pk, row.pending, row.attempts, row.opened_at, row.message)
        )
        claimed += [Delivery(*values) for values in connection.execute(taken)]
    return claimed


def finish(
    connection: sa.Connection,
    delivery: Delivery,
    *,
    is_delivered: bool,
    retry_at: float | None,
    now: float,
) -> None:
    """Record the end of an attempt. `retry_at` is None when no other attempt follows."""
    row = NotificationRow
    # A message that became due meanwhile ("resolved" after "opened") stays due.
    mine = sa.update(row).where(row.pk == delivery.pk, row.pending == delivery.event)
    values: dict[str, object] = {
        "claimed_until": 0.0,
        "attempts": delivery.attempts + (not is_delivered),
    }
    if retry_at is None:
        values |= {"pending": "", "next_at": now}
    else:
        values["next_at"] = retry_at
    connection.execute(mine.values(values))
