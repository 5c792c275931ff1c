"""The header of each page: the run, its state and the links to other pages."""

from __future__ import annotations

import streamlit as st

from trainvitals.api.experiment import is_result
from trainvitals.api.schema import Run, RunDetail
from trainvitals.api.wording import number, percent
from trainvitals_dashboard.parts.bin import delete_popover
from trainvitals_dashboard.parts.edit import edit_popover
from trainvitals_dashboard.parts.session import (
    ALERTS,
    BIAS,
    COMPARE,
    FLEET,
    INITIAL,
    LAYERS,
    LOSS,
    RUN,
    SETTINGS,
    now,
)
from trainvitals_dashboard.parts.verdict import tab_title
from trainvitals_dashboard.wording import (
    STATE_COLOUR,
    STATE_ICON,
    ago,
    duration,
    plain,
    rate,
    shortened,
    steps,
)


def brand() -> None:
    """Show the link to the list of runs."""
    st.page_link(FLEET, label="**trainvitals**", icon=":material/vital_signs:")


def links_to_all_runs(page: str = "") -> None:
    """Show the links to the pages about all runs. `page` is the open page."""
    for target, label, icon in (
        (ALERTS, "Alerts", ":material/notifications:"),
        (SETTINGS, "Settings", ":material/settings:"),
    ):
        st.page_link(target, label=label, icon=icon, disabled=page == target)


def run_header(run: Run, *, page: str) -> None:
    """Show the run's name, state and links, and set the tab title. `page` is the open page."""
    st.set_page_config(page_title=tab_title(run))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        brand()
        for target, label, icon in (
            (RUN, "Verdict", ":material/stethoscope:"),
            (LOSS, "Loss", ":material/show_chart:"),
            (LAYERS, "Layers", ":material/layers:"),
            (INITIAL, "Initialisation", ":material/flag:"),
            (BIAS, "Bias", ":material/balance:"),
            (COMPARE, "Compare", ":material/stacked_line_chart:"),
        ):
            st.page_link(
                target,
                label=label,
                icon=icon,
                query_params={"run": run.id},
                disabled=page == target,
            )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"## {plain(shortened(run.name or run.id, 60))}", width="content", anchors=False
        )
        state_badge(run.state)
        if isinstance(run, RunDetail) and page == RUN:
            if run.archived:
                st.badge("archived", icon=":material/archive:", color="gray")
            edit_popover(run)
            delete_popover(run)


def state_badge(state: str) -> None:
    """Show the state of a run: an icon, a word and a colour."""
    st.badge(
        "lost contact" if state == "lost" else plain(state),
        icon=STATE_ICON.get(state),
        color=STATE_COLOUR.get(state, "gray"),  # type: ignore[arg-type]  # a fixed table's words
    )


def progress(run: Run) -> str:
    """Return the current step and the total. Not escaped, because it contains only numbers."""
    if is_result(run):
        return f"trainings of {steps(run.total_steps)}" if run.total_steps else "no steps"
    if run.step < 0:
        return "no step yet"
    if run.total_steps:
        share = min(1.0, (run.step + 1) / run.total_steps)
        return f"step {run.step:,} of {run.total_steps:,} ({percent(share)})"
    return f"step {run.step:,}"


def where_and_when(run: Run) -> str:
    """Return the progress, the speed and the loss of a run, as Markdown."""
    parts = [plain(run.project)]
    if run.host:
        parts.append(f"on {plain(run.host)}")
    parts.append(progress(run))
    if run.state == "running":
        parts.append(rate(run.step_rate))
        parts.append(f"last report {ago(run.last_report_at, now())}")
    else:
        end = run.ended_at or run.last_report_at
        parts.append(f"ran {duration(end - run.started_at)}")
        parts.append(f"last report {ago(run.last_report_at, now())}")
    if run.loss is not None:
        parts.append(f"loss {number(run.loss)}")
    if run.attempt > 1:
        parts.append(f"attempt {run.attempt}")
    parts += [f"\\#{plain(tag)}" for tag in run.tags[:8]]
    return " · ".join(part for part in parts if part)
