"""The routes about open findings of all runs and about notifications."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from fastapi import Query, Request, Response

from trainvitals.api import schema
from trainvitals_server.auth import Principal, ScopedRouter
from trainvitals_server.notification_settings import Channel, NotificationSettings, Route, Silence
from trainvitals_server.notifications.notifier import ATTEMPTS_MAX, Notifier
from trainvitals_server.query.answers import Reader, States, described, json_response, store_of
from trainvitals_server.store.alerts import NoticeRow, alerts, notices, run_ids

ALERTS_MAX = 500
NOTICES_MAX = 200
_OF_ALERTS: Final = 5_000
"""Notices that are read for the alerts of one response."""

routes = ScopedRouter(prefix="/api/v1", tags=["alerts"])

_Patterns = TypeVar("_Patterns", Route, Silence)


@routes.get("/alerts", **described(schema.Alerts))
def open_findings(
    request: Request,
    principal: Reader,
    state: States = None,
    severity: Annotated[
        Literal["info", "warning", "error"], Query(description="The lowest severity.")
    ] = "warning",
    limit: Annotated[int, Query(ge=1, le=ALERTS_MAX)] = 200,
) -> Response:
    """List the open findings of all runs by run and rule, with the messages about them."""
    with store_of(request).database.read() as connection:
        found = alerts(
            connection,
            project=principal.project,
            state=state,
            severity=schema.Severity(severity),
            limit=limit + 1,
        )
        run_pks = sorted({run_pk for run_pk, _ in found})
        rows = notices(connection, run_pks=run_pks, limit=_OF_ALERTS)
    by_rule: dict[tuple[int, str], list[schema.Notice]] = {}
    for row in rows:
        if row.is_open:
            by_rule.setdefault((row.run_pk, row.rule), []).append(notice(row))
    shown = tuple(
        msgspec.structs.replace(alert, notices=tuple(by_rule.get((run_pk, alert.rule), ())))
        for run_pk, alert in found[:limit]
    )
    return json_response(schema.Alerts(shown, len(found) > limit))


@routes.get("/notifications", **described(schema.Notifications))
def notifications(
    request: Request,
    principal: Reader,
    limit: Annotated[int, Query(ge=0, le=NOTICES_MAX, description="Newest messages.")] = 50,
) -> Response:
    """Return channels without their addresses, routes, silences and the newest messages."""
    settings: NotificationSettings = request.app.state.settings.notifications
    notifier: Notifier = request.app.state.notifier
    with store_of(request).database.read() as connection:
        rows = notices(connection, project=principal.project, limit=limit)
        silences = _of_project(settings.silences, principal)
        if principal.project is not None and any("*" not in one.runs for one in silences):
            silences = _of_runs(silences, run_ids(connection, principal.project))
    chosen = _of_project(settings.routes, principal)
    routed = {name for route in chosen for name in route.channels}
    known = {
        name: channel
        for name, channel in settings.channels.items()
        if principal.project is None or name in routed
    }
    return json_response(
        schema.Notifications(
            channels=tuple(_channel(n, c, n in routed, notifier) for n, c in known.items()),
            routes=tuple(
                schema.Route(route.channels, route.severity, route.projects, route.rules)
                for route in chosen
            ),
            silences=tuple(map(_silence, silences)),
            cooldown_s=settings.cooldown_s,
            notices=tuple(map(notice, rows)),
        )
    )


def notice(row: NoticeRow) -> schema.Notice:
    """Return a row as the API shows it."""
    state: Literal["waiting", "delivered", "given_up", "over"]
    if row.pending:
        state = "waiting"
    elif row.attempts >= ATTEMPTS_MAX:
        state = "given_up"
    else:
        state = "delivered" if row.is_open else "over"
    event: Literal["opened", "resolved"] = "opened" if row.is_open else "resolved"
    if row.pending == "opened":
        event = "opened"
    return schema.Notice(
        run=row.run,
        project=row.project,
        rule=row.rule,
        channel=row.channel,
        event=event,
        state=state,
        opened_at=row.opened_at,
        at=row.next_at,
        attempts=row.attempts,
    )


def _of_project(patterns: tuple[_Patterns, ...], principal: Principal) -> list[_Patterns]:
    """Return the routes or silences that concern the token's project, with its patterns only."""
    if principal.project is None:
        return list(patterns)
    kept = []
    for one in patterns:
        matching = tuple(p for p in one.projects if fnmatchcase(principal.project, p))
        if matching:
            kept.append(one.model_copy(update={"projects": matching}))
    return kept


def _of_runs(silences: Sequence[Silence], runs: Sequence[str]) -> list[Silence]:
    """Return the silences that concern one of the runs, with only the patterns that match one.

    The others may contain names of other projects' runs.
    """
    kept = []
    for silence in silences:
        matching = tuple(
            p for p in silence.runs if p == "*" or any(fnmatchcase(run, p) for run in runs)
        )
        if matching:
            kept.append(silence.model_copy(update={"runs": matching}))
    return kept


def _channel(name: str, channel: Channel, is_routed: bool, notifier: Notifier) -> schema.Channel:
    health = notifier.health(name)
    return schema.Channel(
        name=name,
        kind="webhook" if channel.is_webhook else "apprise",
        resolved=channel.resolved,
        is_routed=is_routed,
        sent_at=health.sent_at,
        failed_at=health.failed_at,
        error=health.error,
    )


def _silence(silence: Silence) -> schema.Silence:
    until = None if silence.until is None else silence.until.timestamp()
    return schema.Silence(silence.projects, silence.runs, silence.rules, until)
