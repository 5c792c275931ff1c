"""Decide what is sent: compare what holds now with what was sent.

Pure: no clock, no database, no network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

from trainvitals.api.schema import Severity
from trainvitals_server.notification_settings import NotificationSettings, Route, Silence
from trainvitals_server.store.notifications import Condition, Key, Sent

RECENT_S: Final = 3600.0
"""A run without a report for longer raises no new message: the first start with notifications
would otherwise report every old run."""


@dataclass(frozen=True)
class Change:
    """A row to write. `condition` is None when the condition no longer holds."""

    key: Key
    action: Literal["open", "reopen", "resolve", "forget"]
    condition: Condition | None = None


def plan(
    conditions: Sequence[Condition],
    sent: Mapping[Key, Sent],
    settings: NotificationSettings,
    channel: str,
    now: float,
) -> list[Change]:
    """Return the changes that bring the rows of `channel` to what holds at `now`."""
    routes = [route for route in settings.routes if channel in route.channels]
    holding = {condition.key: condition for condition in conditions}
    changes = []
    for key, condition in holding.items():
        row = sent.get(key)
        if row is not None and row.is_open:
            continue
        if not _is_wanted(condition, routes) or _is_silenced(condition, settings.silences, now):
            continue
        if now - condition.last_report_at > RECENT_S:
            continue
        if row is None:
            changes.append(Change(key, "open", condition))
        elif now - row.opened_at >= settings.cooldown_s:
            changes.append(Change(key, "reopen", condition))
    for key, row in sent.items():
        if row.is_open and key not in holding:
            # If "opened" was not delivered yet, "resolved" is not sent either.
            is_told = row.pending != "opened" and settings.channels[channel].resolved
            changes.append(Change(key, "resolve" if is_told else "forget"))
    return changes


def _is_wanted(condition: Condition, routes: Iterable[Route]) -> bool:
    return any(
        Severity(condition.severity).rank >= Severity(route.severity).rank
        and _matches(condition.project, route.projects)
        and _matches(condition.rule, route.rules)
        for route in routes
    )


def _is_silenced(condition: Condition, silences: Iterable[Silence], now: float) -> bool:
    return any(
        (silence.until is None or now < silence.until.timestamp())
        and _matches(condition.project, silence.projects)
        and _matches(condition.run, silence.runs)
        and _matches(condition.rule, silence.rules)
        for silence in silences
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
