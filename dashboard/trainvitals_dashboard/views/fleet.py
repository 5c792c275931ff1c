"""The list of all runs with their verdicts and links to their pages."""

from __future__ import annotations

from typing import Any

import streamlit as st

from trainvitals.api.schema import Run, RunPage
from trainvitals.api.wording import number
from trainvitals_dashboard.access import chosen
from trainvitals_dashboard.client import Answer, Problem
from trainvitals_dashboard.figures.spark import sparkline
from trainvitals_dashboard.parts.header import brand, progress, state_badge
from trainvitals_dashboard.parts.session import (
    COMPARE,
    RUN,
    age_banner,
    client,
    explain,
    guarded,
    is_dark,
    now,
)
from trainvitals_dashboard.parts.verdict import verdict_badge, verdict_line, verdict_of
from trainvitals_dashboard.wording import (
    SEVERITY_ICON,
    STATES,
    ago,
    at_place,
    plain,
    rate,
    shortened,
)

REFRESH_S = 5
PAGE = 25
KNOWN_MAX = 500

SIX_LINES = """\
import trainvitals

monitor = trainvitals.watch(model, optimizer, collector="{url}")
for x, y in batches:
    optimizer.zero_grad()
    loss = monitor.loss(criterion(model(x), y))
    loss.backward()
    optimizer.step()
monitor.close()
"""


def show() -> None:
    """Show the runs that match the filters in the URL."""
    known = client().runs(limit=KNOWN_MAX).value
    with st.container(horizontal=True, vertical_alignment="center"):
        brand()
        st.caption(_counted(known), width="content")
        if len(known.runs) > 1:
            st.page_link(COMPARE, label="Compare", icon=":material/stacked_line_chart:")
    if not known.runs:
        _wait_for_the_first()
        return
    search, project, state = _filters(known)
    shown = int(st.session_state.get("shown", PAGE))

    # Refresh even if no run is running: a new one may start at any time.
    @st.fragment(run_every=REFRESH_S)
    def rows() -> None:
        try:
            answer = client().runs(search=search, project=project, state=state, limit=shown)
        except Problem as problem:
            explain(problem)
            return
        _rows(answer)

    rows()


@st.fragment(run_every=REFRESH_S)
def _wait_for_the_first() -> None:
    try:
        if client().runs(limit=1).value.runs:
            st.rerun()
    except Problem as problem:
        explain(problem)
        return
    empty()


def empty() -> None:
    """Show how to connect the first run."""
    st.markdown("## No runs yet", anchors=False)
    st.markdown("Add trainvitals to a training script. The run appears here after its first steps:")
    st.code(SIX_LINES.format(url=chosen().url), language="python")
    st.caption("Alternatively, omit `collector=` and set this variable for the training process:")
    st.code(f"export TRAINVITALS_COLLECTOR={chosen().url}", language="bash")
    st.button("Refresh", icon=":material/refresh:")


def _counted(known: RunPage) -> str:
    sick = sum(run.verdict in ("error", "failed") for run in known.runs)
    running = sum(run.state == "running" for run in known.runs)
    more = "+" if known.next_cursor else ""
    parts = [f"{len(known.runs)}{more} run{'' if len(known.runs) == 1 else 's'}"]
    if running:
        parts.append(f"{running} running")
    if sick:
        parts.append(f"{sick} failed or with errors")
    return " · ".join(parts)


def _filters(known: RunPage) -> tuple[str, str | None, str | None]:
    bound: dict[str, Any] = {"bind": "query-params", "label_visibility": "collapsed"}
    wide, middle, small = st.columns([3, 2, 3], vertical_alignment="center")
    with wide:
        search = st.text_input(
            "Search",
            key="search",
            type="search",
            placeholder="Name, project, host or tag",
            icon=":material/search:",
            **bound,
        )
    with middle:
        projects = sorted({run.project for run in known.runs})
        project = st.selectbox(
            "Project", projects, index=None, key="project", placeholder="All projects", **bound
        )
    with small:
        state = st.pills("State", STATES, key="state", **bound)
    return search or "", project, state


def _rows(answer: Answer[RunPage]) -> None:
    age_banner(answer)
    page = answer.value
    if not page.runs:
        st.info("No run matches these filters.", icon=":material/filter_alt_off:")
        return
    for run in page.runs:
        _card(run)
    if page.next_cursor and st.button("More runs", icon=":material/expand_more:"):
        st.session_state["shown"] = min(KNOWN_MAX, int(st.session_state.get("shown", PAGE)) + PAGE)
        st.rerun()


def _card(run: Run) -> None:
    with st.container(border=True):
        name, verdict, spark, numbers = st.columns(
            [3, 5, 2, 2], gap="medium", vertical_alignment="center"
        )
        with name:
            st.page_link(
                RUN,
                label=f"**{plain(shortened(run.name or run.id, 48))}**",
                icon=SEVERITY_ICON.get(verdict_of(run)),
                query_params={"run": run.id},
            )
            st.caption(" · ".join(plain(p) for p in (run.project, run.host) if p))
        with verdict:
            with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
                verdict_badge(run)
                state_badge(run)
            st.markdown(verdict_line(run))
            if run.headline is not None:
                more = run.findings.error + run.findings.warning - 1
                others = f" · {more} more" if more > 0 else ""
                st.caption(
                    f"{at_place(run.headline.where)} since step {run.headline.since_step:,}{others}"
                )
        with spark:
            if any(v is not None for v in run.sparkline):
                st.image(
                    sparkline(run.sparkline, dark=is_dark(), severity=verdict_of(run)),
                    alt=f"Loss, now {number(run.loss)}",
                )
            st.caption(f"loss {number(run.loss)}")
        with numbers:
            st.markdown(progress(run).capitalize())
            age = f"last report {ago(run.last_report_at, now())}"
            st.caption(f"{rate(run.step_rate)} · {age}" if run.state == "running" else age)


if __name__ == "__main__":
    guarded(show)
