"""A condition raises one message for each cooldown, and one when it ends."""

import datetime

import pytest

from trainvitals_server.notification_settings import NotificationSettings
from trainvitals_server.notifications.plan import RECENT_S, plan
from trainvitals_server.store.notifications import Condition, Key, Sent

NOW = 1_000_000.0
CHANNELS = {"team": {"webhook": "http://x.test/", "key": "k" * 16}}


def settings(routes=({},), **more):
    full = [{"channels": ["team"], **route} for route in routes]
    return NotificationSettings.model_validate({"channels": CHANNELS, "routes": full, **more})


def condition(rule="dead_relu", severity="error", project="shop", run="r", silent_s=1.0):
    return Condition(1, run, project, rule, severity, 3, "x", 5, NOW - silent_s)


def row(is_open=True, pending="", opened_s_ago=10.0):
    return Sent(7, is_open, pending, NOW - opened_s_ago)


def actions(conditions, rows=None, chosen=None):
    changes = plan(conditions, rows or {}, chosen or settings(), "team", NOW)
    return [change.action for change in changes]


KEY = Key(1, "dead_relu")
SEVERITIES = "info warning error"


def test_what_holds_and_was_not_told_is_told_once():
    assert actions([condition()]) == ["open"]
    assert actions([condition()], {KEY: row()}) == []


def test_what_holds_again_is_told_after_the_cooldown_only():
    assert actions([condition()], {KEY: row(is_open=False, opened_s_ago=3599)}) == []
    assert actions([condition()], {KEY: row(is_open=False, opened_s_ago=3600)}) == ["reopen"]


def test_what_no_longer_holds_is_told_unless_it_was_never_delivered():
    assert actions([], {KEY: row()}) == ["resolve"]
    assert actions([], {KEY: row(pending="opened")}) == ["forget"]
    assert actions([], {KEY: row(is_open=False)}) == []


def test_a_channel_can_do_without_messages_of_resolved_findings():
    quiet = settings()
    channel = quiet.channels["team"].model_copy(update={"resolved": False})
    quiet = quiet.model_copy(update={"channels": {"team": channel}})
    assert actions([], {KEY: row()}, quiet) == ["forget"]


@pytest.mark.parametrize(
    ("route", "is_told"),
    [
        ({}, True),
        ({"severity": "error"}, True),
        ({"projects": ["shop"]}, True),
        ({"projects": ["sh*"], "rules": ["dead_*"]}, True),
        ({"projects": ["other"]}, False),
        ({"rules": ["loss_*"]}, False),
    ],
)
def test_a_route_chooses_by_project_and_rule(route, is_told):
    assert bool(actions([condition()], chosen=settings([route]))) == is_told


@pytest.mark.parametrize(
    ("lowest", "told"), [("error", "error"), ("warning", "warning error"), ("info", SEVERITIES)]
)
def test_a_route_chooses_by_severity(lowest, told):
    chosen = settings([{"severity": lowest}])
    by_severity = {s: actions([condition(severity=s)], chosen=chosen) for s in SEVERITIES.split()}
    assert [severity for severity, done in by_severity.items() if done] == told.split()


def test_any_of_several_routes_is_enough():
    chosen = settings([{"projects": ["other"]}, {"projects": ["shop"]}])
    assert actions([condition()], chosen=chosen) == ["open"]


def at(seconds):
    return datetime.datetime.fromtimestamp(NOW + seconds, datetime.UTC)


@pytest.mark.parametrize(
    ("silence", "is_told"),
    [
        ({}, False),
        ({"until": at(1)}, False),
        ({"until": at(-1)}, True),
        ({"runs": ["r"]}, False),
        ({"runs": ["other"]}, True),
        ({"projects": ["shop"], "rules": ["loss_*"]}, True),
    ],
)
def test_a_silence_ends_by_itself_and_covers_what_it_names(silence, is_told):
    assert bool(actions([condition()], chosen=settings(silences=[silence]))) == is_told


def test_a_run_without_a_report_for_an_hour_raises_nothing_new():
    assert actions([condition(silent_s=RECENT_S + 1)]) == []
    assert actions([condition(silent_s=RECENT_S + 1)], {KEY: row()}) == []
