"""The structs of open findings of all runs and of notifications. Users import them from `schema`.

Times are seconds since the epoch (UTC) on the collector's clock.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent to one channel about one rule of one run."""

    run: str
    project: str
    rule: str
    """The rule's name, run_lost or run_failed."""
    channel: str
    event: Literal["opened", "resolved"]
    """Which message `state` is about."""
    state: Literal["waiting", "delivered", "given_up", "over"]
    """over: it no longer holds, and no message is due (whether "resolved" was sent is not
    stored)."""
    opened_at: float
    """When the newest message "opened" became due."""
    at: float
    """The next attempt of a waiting message, else the time of this state."""
    attempts: int = 0
    """Failed attempts at this message."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """The open findings of one rule in one run."""

    run: str
    project: str
    name: str
    """The run's name."""
    state: str
    """The run's state: running | lost | finished | failed | stopped"""
    last_report_at: float
    rule: str
    code: str
    severity: Literal["info", "warning", "error"]
    """The highest one."""
    places: int
    """Number of open findings."""
    where: str = ""
    """The place of the finding that is ranked first."""
    since_step: int
    """The first step at which one of them held."""
    opened_at: float
    """When the first of them was stored."""
    summary: str
    """Of the finding that is ranked first."""
    explained_by: str = ""
    """Code of the finding that causes that one; "" for a root cause."""
    notices: tuple[Notice, ...] = ()


class Alerts(msgspec.Struct, frozen=True):
    """Open findings by run and rule: of running runs first, then by severity, then newest first."""

    alerts: tuple[Alert, ...]
    more: bool = False
    """There are more than were asked for."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver of messages, without its address and key."""

    name: str
    kind: Literal["webhook", "apprise"]
    resolved: bool
    """Whether it receives a message when a finding is resolved."""
    is_routed: bool
    """Whether a route names it; nothing is sent to a channel without a route."""
    sent_at: float | None = None
    """The newest delivery by this collector since its start; null without one."""
    failed_at: float | None = None
    """The newest failed attempt by this collector since its start; null without one."""
    error: str = ""
    """Why that attempt failed."""


class Route(msgspec.Struct, frozen=True):
    """What is sent to which channels. Names are shell patterns."""

    channels: tuple[str, ...]
    severity: str
    """The lowest severity."""
    projects: tuple[str, ...]
    rules: tuple[str, ...]


class Silence(msgspec.Struct, frozen=True):
    """Findings that raise no message: from the settings, or added through the API.

    Names are shell patterns.
    """

    projects: tuple[str, ...]
    runs: tuple[str, ...]
    rules: tuple[str, ...]
    until: float | None = None
    """null: no end."""
    id: str = ""
    """The id with which the API ends it; "" for a silence from the settings, which the API cannot
    end."""
    reason: str = ""
    """Why it was added."""
    by: str = ""
    """The id of the token that added it."""
    created_at: float | None = None


class ChannelTest(msgspec.Struct, frozen=True):
    """The outcome of a test message, without the channel's address and key."""

    channel: str
    delivered: bool
    answer: str
    """What the receiver answered, or why the message was not delivered."""


class Notifications(msgspec.Struct, frozen=True, kw_only=True):
    """Channels, routes, silences and the newest messages, as far as the token's project is
    concerned."""

    channels: tuple[Channel, ...] = ()
    routes: tuple[Route, ...] = ()
    silences: tuple[Silence, ...] = ()
    cooldown_s: float
    """Shortest time between two messages about one rule of one run."""
    notices: tuple[Notice, ...] = ()
    """The newest first."""
