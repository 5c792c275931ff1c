"""Two to six runs beside each other: verdicts, curves over the same steps, and their settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

import numpy as np
import streamlit as st
from msgspec import structs

from trainvitals.api.schema import RunDetail
from trainvitals.api.wording import number
from trainvitals.comparison import Comparison, flat, listed, optimizers_of
from trainvitals.wire import Scalar, Stream
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.figures.charts import Chart
from trainvitals_dashboard.figures.curves import Line, scalar_name
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.blocks import Column, code, rows
from trainvitals_dashboard.parts.board import board, page_drawn
from trainvitals_dashboard.parts.header import brand
from trainvitals_dashboard.parts.ranges import range_control
from trainvitals_dashboard.parts.scalars import Scalars
from trainvitals_dashboard.parts.session import client, explain, guarded
from trainvitals_dashboard.wording import clean, plain, shortened, statistic_words, words

RUNS_MAX = 6
KNOWN_MAX = 500
SETTINGS_MAX = 100
FOUND = "first_difference"
"""Key of the session: ids of two runs, and where they differ."""
CHARTS = (
    ("Loss", str(Scalar.LOSS)),
    ("Gradient norm", str(Scalar.GRADIENT_NORM)),
    ("Learning rate", f"{Scalar.LEARNING_RATE}/0"),
    ("Validation loss", f"{Scalar.LOSS}/validation"),
)
VERDICT_COLUMNS = (
    Column("run"),
    Column("verdict"),
    Column("state"),
    Column("steps", "number"),
    Column("loss", "number"),
    Column("git commit"),
)


def show() -> None:
    """Show the runs that the URL names (`run=` several times)."""
    page_drawn()
    with st.container(horizontal=True, vertical_alignment="center"):
        brand()
        st.caption("Compare runs", width="content")
    chosen = _choice()
    if len(chosen) < 2:
        st.info("Select two to six runs.", icon=":material/stacked_line_chart:")
        return
    runs = [client().run(run_id).value for run_id in chosen]
    _verdicts(runs)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("#### Curves", width="content", anchors=False)
        range_control(max(run.step for run in runs))
    _curves(runs)
    _settings(runs)
    _first_difference(runs[0], runs[1], are_more=len(runs) > 2)


@st.fragment
def _curves(runs: Sequence[RunDetail]) -> None:
    """Draw the curves; a fragment, so that a range that is chosen draws them first."""
    try:
        named = [(run.id, run.name or run.id, _recorded(run)) for run in runs]
        board(
            f"compare-{'-'.join(run.id for run in runs)}",
            [_plan(named, title, scalar) for title, scalar in CHARTS],
            max(run.step for run in runs),
        )
    except Problem as problem:
        explain(problem)


def _choice() -> list[str]:
    known = {run.id: run.name or run.id for run in client().runs(limit=KNOWN_MAX).value.runs}
    wanted = st.query_params.get_all("run")
    # A run of the URL that is not among the newest is shown, too.
    known |= {run_id: run_id for run_id in wanted if run_id not in known}
    chosen = st.multiselect(
        "Runs",
        list(known),
        default=wanted[:RUNS_MAX],
        format_func=lambda run_id: clean(shortened(known[run_id], 60)),
        max_selections=RUNS_MAX,
        placeholder="Select runs",
        key="compared",
    )
    if chosen != wanted:
        st.query_params["run"] = chosen
    return chosen


def _verdicts(runs: Sequence[RunDetail]) -> None:
    rows(
        "verdicts",
        "Verdicts",
        VERDICT_COLUMNS,
        [
            (
                clean(run.name or run.id),
                words(str(run.verdict)),
                clean(run.state),
                f"{run.step + 1:,}",
                "–" if run.loss is None else number(run.loss),
                clean(run.metadata.git_commit[:12]),
            )
            for run in runs
        ],
    )


def _recorded(run: RunDetail) -> Scalars:
    """Return the scalars of the charts that the run has."""
    layout = client().layout(run).value.of(Stream.SCALAR)
    known = {place.name for place in layout.places} if layout else set()
    return Scalars(run, [scalar for _, scalar in CHARTS if scalar in known])


def _plan(runs: Sequence[tuple[str, str, Scalars]], title: str, scalar: str) -> ChartPlan:
    def request(first: int | None, last: int | None, points: int) -> list[Line]:
        # The place tells the lines of a chart apart; here, each is of another run.
        return [
            Line(name, structs.replace(curve, place=run_id))
            for run_id, name, scalars in runs
            for curve in scalars.curves([scalar], first, last, points)
        ]

    # The rates of two runs often differ by decades: the axis is logarithmic as those of the others.
    chart = Chart(f"compare-{scalar}", title, height=260, wide=scalar == Scalar.LOSS)
    return ChartPlan(chart, request)


def _first_difference(a: RunDetail, b: RunDetail, *, are_more: bool) -> None:
    """Offer to search the first step and the first layer at which the first two runs differ."""
    st.markdown("#### First difference", anchors=False)
    names = [clean(run.name or run.id) for run in (a, b)]
    if are_more:
        st.caption(f"Of the first two runs, {plain(names[0])} and {plain(names[1])}.")
    if st.button("Find the first difference", icon=":material/search:"):
        try:
            st.session_state[FOUND] = (a.id, b.id), client().comparison(a.id, b.id)
        except Problem as problem:
            st.caption(f"The search failed: {plain(problem.text)}")
    pair, found = st.session_state.get(FOUND, (None, None))
    if pair == (a.id, b.id):
        _differences(found, names)
    st.caption("The same in a terminal:")
    command = " ".join(shlex.quote(clean(run.id)) for run in (a, b))
    code("command", f"trainvitals compare {command}")


def _differences(found: Comparison, names: Sequence[str]) -> None:
    places = [(_scalar(one.place), one) for one in found.scalars]
    if (layer := found.layer) is not None:
        what = f"{layer.stream} {statistic_words(layer.statistic)} of {clean(layer.place)}"
        places.append((f"first layer: {what}", layer))
    for name, weights in zip(names, found.weights, strict=True):
        if weights:
            st.caption(f"Weights of {name} only, not compared: {clean(listed(weights))}.")
    if not any(found.steps):
        st.caption("Neither run recorded a step.")
        return
    if not places:
        st.caption("The values that both runs recorded do not differ.")
        return
    columns = [Column("quantity"), Column("first at step", "number")]
    columns += [Column(f"{i}: {name}", "number") for i, name in enumerate(names, 1)]
    cells = [(what, f"{d.step:,}", _digits(d.a), _digits(d.b)) for what, d in places]
    rows("differences", "First differences", columns, cells)
    st.caption("Values that differ by rounding in float32 count as equal.")


def _scalar(place: str) -> str:
    """Return the name of a scalar: loss, learning rate of group 0."""
    is_loss = place.partition("/")[0] == Scalar.LOSS
    return words(place) if is_loss else scalar_name(place)


def _digits(value: float | None) -> str:
    # All digits of float32: the first difference of two runs is often in the last ones.
    return "–" if value is None else str(np.float32(value))


def _settings(runs: Sequence[RunDetail]) -> None:
    configs = [
        flat(run.config) | optimizer | run.metadata.versions
        for run, optimizer in zip(runs, optimizers_of(runs), strict=True)
    ]
    names = dict.fromkeys(name for config in configs for name in config)
    # As text: 1 and True, or 1 and 1.0, are not the same setting.
    different = [
        name
        for name in names
        if len({json.dumps(config.get(name), default=str) for config in configs}) > 1
    ]
    st.markdown("#### Settings that differ", anchors=False)
    if not different:
        st.caption("The configurations, the optimizers and the versions are the same.")
        return
    rows(
        "settings",
        "Settings that differ",
        [
            Column("setting"),
            *(Column(f"{i}: {clean(run.name or run.id)}") for i, run in enumerate(runs, 1)),
        ],
        [
            (clean(name), *(clean(str(config.get(name, "–"))) for config in configs))
            for name in different[:SETTINGS_MAX]
        ],
    )
    if len(different) > SETTINGS_MAX:
        st.caption(f"{len(different) - SETTINGS_MAX} more settings differ.")


if __name__ == "__main__":
    guarded(show)
