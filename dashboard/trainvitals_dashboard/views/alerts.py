"""The open findings of all runs, grouped by run and rule, and the messages about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from trainvitals.api.schema import Alert
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.parts.channels import channels, messages, notice_text, silences
from trainvitals_dashboard.parts.choices import choice
from trainvitals_dashboard.parts.header import brand, links_to_all_runs, state_badge
from trainvitals_dashboard.parts.session import (
    ALERTS,
    RULE,
    RUN,
    age_banner,
    client,
    explain,
    guarded,
    now,
)
from trainvitals_dashboard.parts.silencing import channel_test_popover, silence_popover
from trainvitals_dashboard.wording import (
    SEVERITIES,
    SEVERITY_COLOUR,
    SEVERITY_ICON,
    STATES,
    ago,
    literal,
    plain,
    prose,
    shortened,
    words,
)

LIVE_S = 5
RUNS_SHOWN = 20
"""Runs that are shown at first; a button shows more."""
LOWEST = {"errors": "error", "all": "info"}
"""Word in the URL → lowest severity; without one, warnings and errors are shown.

The words are those of the list: Streamlit writes what a list shows into the URL.
"""


def show() -> None:
    """Show the open findings that match the filters in the URL."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        brand()
        links_to_all_runs(ALERTS)
    st.markdown("## Alerts", anchors=False)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        severity = choice("severity", "Warnings, errors", list(LOWEST))
        state = choice("state", "All states", list(STATES))
    lowest = LOWEST.get(severity or "", "warning")

    _refreshed(lambda: _findings(lowest, state if state in STATES else None))
    may_write = client().may_write()
    if may_write:
        _actions()
    _refreshed(lambda: _notifications(may_write=may_write), says_outage=False)


def _refreshed(part: Callable[[], None], *, says_outage: bool = True) -> None:
    """Call `part` now and every LIVE_S seconds; the elements between two parts are not
    refreshed.

    `says_outage` is false where another part of the page says that the collector does not answer.
    """

    @st.fragment(run_every=LIVE_S)
    def drawn_again() -> None:
        try:
            part()
        except Problem as problem:
            if says_outage or problem.reason != "unreachable":
                explain(problem)

    drawn_again()


def _actions() -> None:
    """Show what a visitor can do about notifications. Not refreshed: it has forms."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        silence_popover()
        if names := [channel.name for channel in client().notifications().value.channels]:
            channel_test_popover(names)


def _findings(severity: str, state: str | None) -> None:
    answer = client().alerts(severity=severity, state=state)
    age_banner(answer)
    found = answer.value.alerts
    if not found:
        st.success(
            "No finding is open."
            if state is None and severity == "info"
            else "No finding that matches these filters is open.",
            icon=":material/check_circle:",
        )
        return
    runs = by_run(found)
    st.caption(_counted(found, len(runs), more=answer.value.more))
    shown = int(st.session_state.get("alert_runs", RUNS_SHOWN))
    for alerts in list(runs.values())[:shown]:
        _run(alerts)
    if len(runs) > shown:
        more = min(RUNS_SHOWN, len(runs) - shown)
        st.button(f"Show {more} more run{'s' * (more > 1)}", on_click=_show_more, args=(shown,))


def _show_more(shown: int) -> None:
    st.session_state["alert_runs"] = shown + RUNS_SHOWN


def by_run(found: Sequence[Alert]) -> dict[str, list[Alert]]:
    """Return run → its alerts in the order of `found`, but root causes before their effects."""
    runs: dict[str, list[Alert]] = {alert.run: [] for alert in found}
    for alert in sorted(found, key=lambda alert: bool(alert.explained_by)):
        runs[alert.run].append(alert)
    return runs


def _counted(found: Sequence[Alert], runs: int, *, more: bool) -> str:
    counts = {s: sum(a.severity == s for a in found) for s in SEVERITIES}
    names = {"error": "error", "warning": "warning", "info": "note"}
    parts = [f"{n:,} {names[s]}{'s' * (n != 1)}" for s, n in counts.items() if n]
    cut = " of the first alerts; there are more" if more else ""
    return f"{', '.join(parts)} in {runs:,} run{'s' * (runs != 1)}{cut} · updates automatically"


def _run(alerts: Sequence[Alert]) -> None:
    run = alerts[0]
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.page_link(
                RUN,
                label=f"**{plain(shortened(run.name or run.run, 60))}**",
                query_params={"run": run.run},
            )
            state_badge(run.state)
            about = f"{plain(run.project)} · last report {ago(run.last_report_at, now())}"
            st.caption(about, width="content")
        for alert in alerts:
            _alert(alert)


def _alert(alert: Alert) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(
            plain(alert.severity),
            icon=SEVERITY_ICON.get(alert.severity),
            color=SEVERITY_COLOUR.get(alert.severity, "gray"),  # type: ignore[arg-type]  # a fixed table's words
        )
        st.page_link(
            RULE,
            label=f"{plain(alert.code)} {plain(words(alert.rule))}",
            query_params={"code": alert.code},
        )
        st.caption(_facts(alert), width="content")
    st.markdown(prose(alert.summary))


def _facts(alert: Alert) -> str:
    """Return the start, the place, the cause and the notified channels, as Markdown."""
    parts = [f"since step {alert.since_step:,}", f"found {ago(alert.opened_at, now())}"]
    if alert.places > 1:
        parts.append(f"{alert.places:,} places")
    if alert.where:
        parts.append(f"{'first at' if alert.places > 1 else 'at'} {literal(alert.where)}")
    if alert.explained_by:
        parts.append(f"explained by {plain(alert.explained_by)}")
    parts += [f"{plain(n.channel)}: {plain(notice_text(n))}" for n in alert.notices]
    return " · ".join(parts)


def _notifications(*, may_write: bool) -> None:
    found = client().notifications().value
    st.markdown("#### Channels", anchors=False)
    channels(found.channels, may_write=may_write)
    st.markdown("#### Silences", anchors=False)
    silences(found.silences, may_write=may_write)
    st.markdown("#### Messages", anchors=False)
    messages(found)


if __name__ == "__main__":
    guarded(show)
