"""Notifications as text: channels, silences, and what was sent."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from trainvitals.api.schema import Channel, Notice, Notifications, Silence
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.parts.blocks import code
from trainvitals_dashboard.parts.session import client, now
from trainvitals_dashboard.wording import ago, in_future, plain, prose, shortened, table, words

NO_CHANNEL = """\
[notifications.channels.team]
apprise_file = "/run/secrets/slack"

[[notifications.routes]]
channels = ["team"]
severity = "warning"
"""
TEST_BUTTON = "**Test a channel** above"
TEST_COMMAND = "`trainvitals notify test --channel NAME` on the collector's machine"
_STATES = {
    "delivered": "delivered",
    "given_up": "given up",
    "over": "no longer holds",
}


def notice_text(notice: Notice) -> str:
    """Return the state of a message in a few words. Not escaped."""
    if notice.state != "waiting":
        return f"{_STATES[notice.state]} {ago(notice.at, now())}"
    failed = f", {notice.attempts} failed" if notice.attempts else ""
    return f"waiting{failed}, next attempt {in_future(notice.at, now())}"


def channels(known: Sequence[Channel], *, may_write: bool = False) -> None:
    """Show each channel with its newest delivery and error, or how to configure one."""
    if not known:
        st.caption(
            "No channel is configured for the runs that this token sees. On the collector's "
            "machine, in `trainvitals.toml` (or as JSON in `TRAINVITALS_NOTIFICATIONS`):"
        )
        code("no_channel", NO_CHANNEL)
        return
    rows = [
        (
            plain(channel.name),
            channel.kind if channel.is_routed else f"{channel.kind}, no route",
            "–" if channel.sent_at is None else ago(channel.sent_at, now()),
            "–"
            if channel.failed_at is None
            else f"{ago(channel.failed_at, now())}: {prose(channel.error)}",
        )
        for channel in known
    ]
    st.markdown(table(("channel", "kind", "last delivery", "last error"), rows))
    st.caption(
        "Deliveries and errors since the start of the collector that answered. To try a channel: "
        f"{TEST_BUTTON if may_write else TEST_COMMAND}."
    )


def silences(known: Sequence[Silence], *, may_write: bool) -> None:
    """Show what raises no message, until when and why; with `may_write`, buttons that end it."""
    if not known:
        st.caption("No finding is silenced.")
        return
    # Three columns: more do not fit on a phone.
    rows = [
        (
            _silenced(silence),
            "for ever" if silence.until is None else _until(silence.until),
            _why(silence),
        )
        for silence in known
    ]
    st.markdown(table(("silenced", "until", "reason"), rows))
    if not may_write:
        return
    with st.container(horizontal=True, gap="small"):
        for silence in known:
            if silence.id and st.button(f"End: {plain(_short(silence))}", key=f"end_{silence.id}"):
                _end(silence)


def _why(silence: Silence) -> str:
    if silence.reason:
        return f"{prose(silence.reason)} (token {plain(silence.by)})"
    return "–"


def _short(silence: Silence) -> str:
    return shortened(silence.reason, 40)


def _end(silence: Silence) -> None:
    try:
        client().end_silence(silence.id)
    except Problem as problem:
        st.error(f"The silence is not ended: {plain(problem.text)}")
        return
    st.rerun()


def messages(found: Notifications) -> None:
    """Show the newest messages."""
    if not found.notices:
        st.caption("No message was sent.")
        return
    # Three columns: more do not fit on a phone.
    rows = [
        (
            f"{plain(words(notice.rule))} in {plain(shortened(notice.run, 60))}",
            plain(notice.channel),
            f"{notice.event}: {plain(notice_text(notice))}",
        )
        for notice in found.notices
    ]
    st.markdown(table(("message", "channel", "state"), rows))


def _silenced(silence: Silence) -> str:
    """Return the patterns of a silence that leave something out, as Markdown."""
    named = (("project", silence.projects), ("run", silence.runs), ("rule", silence.rules))
    parts = [
        f"{what} {plain(', '.join(patterns))}" for what, patterns in named if "*" not in patterns
    ]
    return " · ".join(parts) or "everything"


def _until(time: float) -> str:
    return in_future(time, now()) if time > now() else f"over, {ago(time, now())}"
