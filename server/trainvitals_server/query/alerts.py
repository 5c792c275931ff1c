"""The routes about open findings of all runs and about notifications."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from time import time as wall_clock
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from fastapi import Query, Request, Response

from trainvitals.api import schema
from trainvitals_server.auth import Principal, ScopedRouter
from trainvitals_server.notification_settings import Channel, NotificationSettings, Silence
from trainvitals_server.notifications.notifier import ATTEMPTS_MAX, Notifier
from trainvitals_server.query.responses import Reader, States, described, json_response, store_of
from trainvitals_server.store.alerts import NoticeRow, alerts, notices, run_ids
from trainvitals_server.store.silences import StoredSilence, held

ALERTS_MAX = 500
NOTICES_MAX = 200
_OF_ALERTS: Final = 5_000
"""Notices that are read for the alerts of one response."""

routes = ScopedRouter(prefix="/api/v1", tags=["alerts"])

_Patterns = TypeVar("_Patterns", schema.Route, schema.Silence)


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
        added = map(added_silence, held(connection, wall_clock()))
        silences = _of_project((*map(_silence, settings.silences), *added), principal)
        if principal.project is not None:
            silences = [_without_others(one, principal.project) for one in silences]
            if any("*" not in one.runs for one in silences):
                silences = _of_runs(silences, run_ids(connection, principal.project))
    chosen = _routes(settings, principal)
    routed = {name for route in chosen for name in route.channels}
    known = channels_of(settings, principal)
    return json_response(
        schema.Notifications(
            channels=tuple(_channel(n, c, n in routed, notifier) for n, c in known.items()),
            routes=tuple(chosen),
            silences=tuple(silences),
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


def channels_of(settings: NotificationSettings, principal: Principal) -> dict[str, Channel]:
    """Return name → channel of those visible to the token: with a project, the routed ones."""
    if principal.project is None:
        return dict(settings.channels)
    routed = {name for route in _routes(settings, principal) for name in route.channels}
    return {name: channel for name, channel in settings.channels.items() if name in routed}


def own_project(project: str) -> tuple[str]:
    """Return the patterns of projects of a silence that a token of this project added."""
    return (glob.escape(project),)


def added_silence(silence: StoredSilence) -> schema.Silence:
    """Return a silence of the database as the API shows it."""
    patterns = silence.patterns
    return schema.Silence(
        patterns.projects,
        patterns.runs,
        patterns.rules,
        silence.until,
        str(silence.pk),
        silence.reason,
        silence.created_by,
        silence.created_at,
    )


def _routes(settings: NotificationSettings, principal: Principal) -> list[schema.Route]:
    every = [schema.Route(r.channels, r.severity, r.projects, r.rules) for r in settings.routes]
    return _of_project(every, principal)


def _of_project(patterns: Iterable[_Patterns], principal: Principal) -> list[_Patterns]:
    """Return the routes or silences that concern the token's project, with its patterns only."""
    if principal.project is None:
        return list(patterns)
    kept = []
    for one in patterns:
        matching = tuple(p for p in one.projects if fnmatchcase(principal.project, p))
        if matching:
            kept.append(msgspec.structs.replace(one, projects=matching))
    return kept


def _without_others(silence: schema.Silence, project: str) -> schema.Silence:
    """Return a silence without its id and its reason, unless it is of this project alone."""
    if silence.projects == own_project(project):
        return silence
    return msgspec.structs.replace(silence, id="", reason="", by="", created_at=None)


def _of_runs(silences: Sequence[schema.Silence], runs: Sequence[str]) -> list[schema.Silence]:
    """Return the silences that concern one of the runs, with only the patterns that match one.

    The others may contain names of other projects' runs.
    """
    kept = []
    for silence in silences:
        matching = tuple(
            p for p in silence.runs if p == "*" or any(fnmatchcase(run, p) for run in runs)
        )
        if matching:
            kept.append(msgspec.structs.replace(silence, runs=matching))
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
