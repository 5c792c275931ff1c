"""Notifications as text: channels, silences, and what was sent."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from trainvitals.api.schema import Channel, Notice, Notifications, Silence
from trainvitals_dashboard.parts.session import now
from trainvitals_dashboard.wording import ago, in_future, plain, prose, shortened, table, words

NO_CHANNEL = """\
[notifications.channels.team]
apprise_file = "/run/secrets/slack"

[[notifications.routes]]
channels = ["team"]
severity = "warning"
"""
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


def channels(known: Sequence[Channel]) -> None:
    """Show each channel with its newest delivery and error, or how to configure one."""
    if not known:
        st.caption(
            "No channel is configured for the runs that this token sees. On the collector's "
            "machine, in `trainvitals.toml` (or as JSON in `TRAINVITALS_NOTIFICATIONS`):"
        )
        st.code(NO_CHANNEL, language="toml")
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
        "Deliveries and errors since the start of the collector that answered. To try a channel on "
        "the collector's machine: `trainvitals notify test --channel NAME`."
    )


def silences(known: Sequence[Silence]) -> None:
    """Show which findings raise no message, and until when."""
    if not known:
        st.caption("No finding is silenced.")
        return
    rows = [
        (
            _patterns(silence.projects),
            _patterns(silence.runs),
            _patterns(silence.rules),
            "for ever" if silence.until is None else _until(silence.until),
        )
        for silence in known
    ]
    st.markdown(table(("projects", "runs", "rules", "until"), rows))


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


def _patterns(patterns: Sequence[str]) -> str:
    return "all" if "*" in patterns else plain(", ".join(patterns))


def _until(time: float) -> str:
    return in_future(time, now()) if time > now() else f"over, {ago(time, now())}"
