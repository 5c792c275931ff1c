"""Add a silence and try a channel. Shown to visitors whose token may do so."""

from __future__ import annotations

from typing import Any

import streamlit as st

from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.parts.session import client
from trainvitals_dashboard.wording import plain, prose

HOURS = {"1 hour": 1, "8 hours": 8, "1 day": 24, "7 days": 168, "30 days": 720}
PATTERNS_HELP = "Shell patterns, separated by commas: * stands for any characters."
REASON_MAX = 500
_ADDED = "silence_added"


def silence_popover() -> None:
    """Show the form that adds a silence."""
    with (
        st.popover("Silence", icon=":material/notifications_off:", key="silence"),
        st.form("silence_form", border=False, clear_on_submit=False),
    ):
        runs = st.text_input("Runs", "*", help=PATTERNS_HELP, key="silence_runs")
        rules = st.text_input(
            "Rules",
            "*",
            help=f"{PATTERNS_HELP} Names of rules such as dead_relu; run_lost; run_failed.",
            key="silence_rules",
        )
        projects = st.text_input("Projects", "*", help=PATTERNS_HELP, key="silence_projects")
        duration = st.selectbox("For", list(HOURS), key="silence_for")
        reason = st.text_input("Reason", max_chars=REASON_MAX, key="silence_reason")
        if st.form_submit_button("Add", type="primary"):
            _add(wanted_silence(runs, rules, projects, duration, reason))
    if st.session_state.pop(_ADDED, False):
        st.toast("The silence is added.", icon=":material/notifications_off:")


def wanted_silence(
    runs: str, rules: str, projects: str, duration: str, reason: str
) -> dict[str, Any]:
    """Return the values of the form, as the API expects them. An empty field means all (*)."""
    return {
        "runs": _patterns(runs),
        "rules": _patterns(rules),
        "projects": _patterns(projects),
        "hours": HOURS[duration],
        "reason": reason.strip(),
    }


def channel_test_popover(names: list[str]) -> None:
    """Show the buttons that send a test message to a channel, and what it answered."""
    with st.popover("Test a channel", icon=":material/send:", key="channel_test"):
        for name in names:
            if st.button(plain(name), key=f"test_{name}"):
                _test(name)


def _patterns(text: str) -> list[str]:
    listed = [pattern for each in text.split(",") if (pattern := each.strip())]
    return list(dict.fromkeys(listed)) or ["*"]


def _add(wanted: dict[str, Any]) -> None:
    if not wanted["reason"]:
        st.error("Nothing is silenced: give a reason, which other people will read.")
        return
    try:
        client().add_silence(wanted)
    except Problem as problem:
        st.error(f"Nothing is silenced: {plain(problem.text)}")
        return
    st.session_state[_ADDED] = True
    st.rerun()


def _test(name: str) -> None:
    try:
        with st.spinner("Sending a test message"):
            outcome = client().test_channel(name)
    except Problem as problem:
        st.error(plain(problem.text))
        return
    said = f"{plain(name)}: {prose(outcome.answer)}"
    if outcome.delivered:
        st.success(f"Delivered. {said}", icon=":material/check_circle:")
    else:
        st.error(f"Not delivered. {said}", icon=":material/error:")
