"""The list of all runs with their verdicts and links to their pages."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from trainvitals.api.experiment import TAG, is_result
from trainvitals.api.schema import Run, RunPage
from trainvitals_dashboard.access import chosen
from trainvitals_dashboard.client import Answer, Problem
from trainvitals_dashboard.parts.blocks import code
from trainvitals_dashboard.parts.board import BUNDLE, SENT, forget_boards, mount
from trainvitals_dashboard.parts.choices import choice
from trainvitals_dashboard.parts.header import brand, links_to_all_runs
from trainvitals_dashboard.parts.run_rows import (
    VERDICTS,
    Filters,
    checked_order,
    runs_message,
)
from trainvitals_dashboard.parts.session import (
    COMPARE,
    EXPERIMENTS,
    RUN,
    age_banner,
    client,
    explain,
    guarded,
    now,
)
from trainvitals_dashboard.parts.verdict import verdict_of
from trainvitals_dashboard.wording import SEVERITY_ICON, STATES, VERDICT_WORDS, plain, shortened

REFRESH_S = 5
PAGE = 100
KEY = "runs"
ARCHIVED = "archived"

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
    forget_boards()  # the page was opened, or its filters changed
    # The switch is below what it decides; before it was shown, the URL says its position.
    archived = bool(st.session_state.get(ARCHIVED, st.query_params.get(ARCHIVED) == "true"))
    answer = client().every_run(archived=archived)
    known = answer.value
    with st.container(horizontal=True, vertical_alignment="center"):
        brand()
        st.caption(_counted(known), width="content")
        if len(known.runs) > 1:
            st.page_link(COMPARE, label="Compare", icon=":material/stacked_line_chart:")
        if any(TAG in run.tags for run in known.runs):
            st.page_link(EXPERIMENTS, label="Experiments", icon=":material/science:")
        links_to_all_runs()
    if not known.runs and not client().runs(archived=True, limit=1).value.runs:
        age_banner(answer)
        _wait_for_the_first()
        return
    filters = _filters(known.runs)

    # Refresh even if no run is running: a new one may start at any time.
    @st.fragment(run_every=REFRESH_S)
    def rows() -> None:
        try:
            _rows(client().every_run(archived=archived), filters)
        except Problem as problem:
            explain(problem)

    rows()


@st.fragment(run_every=REFRESH_S)
def _wait_for_the_first() -> None:
    try:
        if client().every_run().value.runs:
            st.rerun()
    except Problem as problem:
        explain(problem)
        return
    empty()


def empty() -> None:
    """Show how to connect the first run."""
    st.markdown("## No runs yet", anchors=False)
    st.markdown("Add trainvitals to a training script. The run appears here after its first steps:")
    code("six_lines", SIX_LINES.format(url=chosen().url))
    st.caption("Alternatively, omit `collector=` and set this variable for the training process:")
    code("variable", f"export TRAINVITALS_COLLECTOR={chosen().url}")
    st.button("Refresh", icon=":material/refresh:")


def _counted(known: RunPage) -> str:
    sick = sum(run.verdict in ("error", "failed") for run in known.runs)
    running = sum(run.state == "running" for run in known.runs)
    count = f"{len(known.runs):,} run{'' if len(known.runs) == 1 else 's'}"
    parts = [f"the newest {count}" if known.next_cursor else count]
    if running:
        parts.append(f"{running:,} running")
    if sick:
        parts.append(f"{sick:,} failed or with errors")
    return " · ".join(parts)


def _filters(runs: Sequence[Run]) -> Filters:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        search = st.text_input(
            "Search",
            key="search",
            type="search",
            placeholder="Name, project, host or tag",
            icon=":material/search:",
            label_visibility="collapsed",
            width=300,
            bind="query-params",
        )
        verdicts = {verdict_of(run) for run in runs}
        verdict = choice(
            "verdict", "All verdicts", [v for v in VERDICTS if v in verdicts], VERDICT_WORDS
        )
        state = choice("state", "All states", [s for s in STATES if s in {r.state for r in runs}])
        project = choice("project", "All projects", sorted({run.project for run in runs}))
        tag = choice("tag", "All tags", sorted({tag for run in runs for tag in run.tags}))
        host = choice("host", "All hosts", sorted({run.host for run in runs if run.host}))
        st.toggle("Archived", key=ARCHIVED, help="Show archived runs too.", bind="query-params")
    return Filters(search or "", verdict, state, project, tag, host)


def _rows(answer: Answer[RunPage], filters: Filters) -> None:
    age_banner(answer)
    found = [run for run in answer.value.runs if filters.fits(run)]
    if not found:
        text = "No run matches these filters." if answer.value.runs else "All runs are archived."
        st.info(text, icon=":material/filter_alt_off:")
        st.session_state.pop(SENT + KEY, None)
        return
    if not BUNDLE.exists():
        _plain_list(found)
    limit = int(st.session_state.get("shown", PAGE))
    sort = checked_order(st.query_params.get("sort", ""))
    sent = runs_message(
        found,
        sort,
        limit=limit,
        now=now(),
        shape=(filters, sort),
        sent=st.session_state.get(SENT + KEY),
    )
    st.session_state[SENT + KEY] = sent
    event = mount(KEY, sent.message)
    if event.open:
        opened = [run for run in found if run.id == event.open and is_result(run)]
        st.switch_page(EXPERIMENTS if opened else RUN, query_params={"run": str(event.open)})
    if event.sort is not None and checked_order(str(event.sort)) != sort:
        _sort_by(checked_order(str(event.sort)))
        st.rerun()
    if event.more is not None and int(event.more) == limit:
        st.session_state["shown"] = limit + PAGE
        st.rerun(scope="fragment")


def _sort_by(order: str) -> None:
    """Write the order into the URL."""
    if order:
        st.query_params["sort"] = order
    else:
        del st.query_params["sort"]


def _plain_list(runs: Sequence[Run]) -> None:
    """Show links to the runs where the bundle of the table is missing."""
    for run in runs[:PAGE]:
        st.page_link(
            EXPERIMENTS if is_result(run) else RUN,
            label=f"**{plain(shortened(run.name or run.id, 48))}**",
            icon=SEVERITY_ICON.get(verdict_of(run)),
            query_params={"run": run.id},
        )


if __name__ == "__main__":
    guarded(show)
