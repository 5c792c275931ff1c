"""The routes that add and end silences, and that try a channel. They need the scope admin.

A token of one project silences only runs of its project, and tries only channels that a route
connects to it. GET /api/v1/notifications returns the active silences.
"""

from __future__ import annotations

import logging
import math
from time import time as wall_clock
from typing import Annotated

from fastapi import Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from trainvitals.api import schema
from trainvitals_server.auth import Principal, Scope, ScopedRouter, allow
from trainvitals_server.notification_settings import NotificationSettings
from trainvitals_server.notifications.channels import DeliveryFailed
from trainvitals_server.notifications.notifier import Notifier, TooSoon
from trainvitals_server.problems import Problem
from trainvitals_server.query.alerts import added_silence, channels_of, own_project
from trainvitals_server.query.responses import described, json_response, store_of
from trainvitals_server.store import RequestRefused, silences
from trainvitals_server.store.silences import Patterns, StoredSilence

HOURS_MAX = 720
_HOUR_S = 3_600.0
_LINE = r"^[^\x00-\x1f\x7f]*$"

log = logging.getLogger(__name__)

routes = ScopedRouter(prefix="/api/v1", tags=["alerts"])

Admin = Annotated[Principal, allow(Scope.ADMIN)]
Pattern = Annotated[str, Field(min_length=1, max_length=256, pattern=_LINE)]
Listed = Annotated[list[Pattern], Field(min_length=1, max_length=20)]


class NewSilence(BaseModel):
    """What is silenced, for how long and why. Names are shell patterns: shop, shop-*, *."""

    model_config = ConfigDict(extra="forbid")

    projects: Listed = Field(
        default=["*"], description="For a token of one project, * is that project."
    )
    runs: Listed = Field(default=["*"], description="Ids of runs.")
    rules: Listed = Field(default=["*"], description="Names of rules, run_lost, run_failed.")
    hours: float = Field(
        gt=0,
        le=HOURS_MAX,
        allow_inf_nan=False,
        description="Duration in hours, from now; at most 30 days.",
    )
    reason: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=_LINE),
    ]


@routes.post(
    "/silences", **described(schema.Silence, "malformed", "too_many_silences", "disk_full")
)
def add_silence(request: Request, principal: Admin, wanted: NewSilence) -> Response:
    """Suppress new messages about matching findings for some hours; return the silence."""
    now = wall_clock()
    patterns = Patterns(_projects(principal, wanted), tuple(wanted.runs), tuple(wanted.rules))
    try:
        added = store_of(request).database.write(
            lambda connection: silences.add(
                connection,
                patterns,
                reason=wanted.reason,
                until=now + wanted.hours * _HOUR_S,
                token=principal.token_id,
                now=now,
            )
        )
    except RequestRefused as refused:
        raise Problem(refused.reason, str(refused)) from refused
    log.info("Token %s added silence %d for %g h.", principal.token_id, added.pk, wanted.hours)
    return json_response(added_silence(added))


@routes.delete("/silences/{silence}", **described(schema.Silence, "unknown_silence", "disk_full"))
def end_silence(
    request: Request,
    principal: Admin,
    silence: Annotated[str, Path(pattern="^[0-9]{1,18}$", description="The id of a silence.")],
) -> Response:
    """End a silence that was added through the API; return it. Open findings then raise a
    message."""
    database, now = store_of(request).database, wall_clock()
    with database.read() as connection:
        held = {one.pk: one for one in silences.held(connection, now)}
    found = held.get(int(silence))
    if found is None or not _may_end(principal, found):
        raise Problem("unknown_silence", "No silence that holds has this id.")
    ended = database.write(
        lambda connection: silences.end(connection, found.pk, token=principal.token_id, now=now)
    )
    if not ended:  # another request ended it in between
        raise Problem("unknown_silence", "No silence that holds has this id.")
    log.info("Token %s ended silence %d.", principal.token_id, found.pk)
    return json_response(added_silence(found))


@routes.post(
    "/notifications/channels/{channel}/test",
    **described(schema.ChannelTest, "unknown_channel", "too_soon"),
)
def test_channel(
    request: Request,
    principal: Admin,
    channel: Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,32}$", description="Its name.")],
) -> Response:
    """Send a test message to a channel; return what its receiver answered, without secrets."""
    settings: NotificationSettings = request.app.state.settings.notifications
    notifier: Notifier = request.app.state.notifier
    if channel not in channels_of(settings, principal):
        raise Problem("unknown_channel", "No channel of the collector's settings has this name.")
    try:
        outcome = schema.ChannelTest(channel, True, notifier.test(channel))
    except DeliveryFailed as failed:
        outcome = schema.ChannelTest(channel, False, str(failed))
    except TooSoon as error:
        wait = {"Retry-After": str(math.ceil(error.wait_s))}
        raise Problem("too_soon", str(error), headers=wait) from error
    log.info("Token %s tested the channel %s.", principal.token_id, channel)
    return json_response(outcome)


def _projects(principal: Principal, wanted: NewSilence) -> tuple[str, ...]:
    if principal.project is None:
        return tuple(wanted.projects)
    if wanted.projects not in (["*"], [principal.project]):
        raise Problem("forbidden", "This token silences only runs of its own project.")
    return own_project(principal.project)


def _may_end(principal: Principal, silence: StoredSilence) -> bool:
    return principal.project is None or silence.patterns.projects == own_project(principal.project)
