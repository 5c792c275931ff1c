"""The chart that shows the evidence of a finding."""

from __future__ import annotations

import streamlit as st

from trainvitals.api.schema import Finding, RunDetail
from trainvitals.wire import Scalar, Stat, Stream
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.figures import evidence
from trainvitals_dashboard.figures.charts import Chart, over_layers
from trainvitals_dashboard.figures.curves import Line, Marks, resumes, scalar_name
from trainvitals_dashboard.figures.depth import newest_by_place, per_entry
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.board import board, still_board
from trainvitals_dashboard.parts.ranges import follows
from trainvitals_dashboard.parts.session import client
from trainvitals_dashboard.wording import plain, statistic_words, words

HEIGHT = 240
LIVE_S = 10
LINES_MAX = 6
_BY_DEPTH = {(Stream.GRADIENT, Stat.L2), (Stream.ACTIVATION, Stat.SAMPLE_STD)}
"""Statistics whose findings compare layers; the curve of one layer is not sufficient evidence."""


def proof_chart(run: RunDetail, finding: Finding) -> None:
    """Draw the statistic that the finding refers to, or state that there is no curve."""
    try:
        drawn = _by_depth(run, finding) or _over_time(run, finding)
    except Problem as problem:
        st.caption(f"The curve is not available: {plain(problem.text)}")
        return
    if not drawn:
        st.caption("This finding is based on the numbers only; it has no curve.")


def _over_time(run: RunDetail, finding: Finding) -> bool:
    wanted = evidence.wanted(finding)
    if wanted is None:
        return False
    is_scalar = wanted.stream == Stream.SCALAR
    title = (
        words(wanted.place)
        if is_scalar
        else f"{wanted.stream} {statistic_words(wanted.statistic)} of {wanted.place}"
    )
    # The rest of the verdict is drawn again when a finding changes; its curve goes on with the run.
    live = run.state == "running" and follows()
    fresh = [run]

    @st.fragment(run_every=LIVE_S if live else None)
    def curve() -> None:
        newest = client().run(run.id).value if live and not fresh else run
        fresh.clear()
        plan = _plan(newest, finding, wanted, title)
        board(f"{_key(finding)}-{run.id}", [plan], newest.step, tools=False)

    curve()
    return True


def _plan(run: RunDetail, finding: Finding, wanted: evidence.Wanted, title: str) -> ChartPlan:
    lost = [d for d in run.dropped if d.stream == wanted.stream]
    limit, name = evidence.threshold(finding) or (None, "")
    marks = Marks([finding], lost, limit, name, resumes(run.events))

    is_scalar = wanted.stream == Stream.SCALAR
    places = _with_splits(run) if is_scalar and wanted.place == Scalar.LOSS else [wanted.place]

    def request(first: int | None, last: int | None, points: int) -> list[Line]:
        series = client().series(
            run,
            wanted.stream,
            wanted.statistic,
            places,
            from_step=first,
            to_step=last,
            points=points,
        )
        return [
            Line(scalar_name(curve.place) if is_scalar else curve.place, curve)
            for curve in series.value.series
            if curve.step
        ]

    return ChartPlan(Chart(_key(finding), title, marks, HEIGHT, wide=True), request)


def _with_splits(run: RunDetail) -> list[str]:
    """Return the losses of all splits, training first: overfitting is seen in two of them."""
    layout = client().layout(run).value.of(Stream.SCALAR)
    splits = [p.name for p in layout.places] if layout else []
    prefix = f"{Scalar.LOSS}/"
    return [str(Scalar.LOSS), *(name for name in splits if name.startswith(prefix))][:LINES_MAX]


def _by_depth(run: RunDetail, finding: Finding) -> bool:
    if (finding.stream, finding.statistic) not in _BY_DEPTH:
        return False
    heat = client().heatmap(run, finding.stream, finding.statistic, columns=50).value
    values = newest_by_place(heat)
    if finding.statistic == Stat.L2:
        layout = client().layout(run).value.of(finding.stream)
        values = per_entry(values, {p.name: p for p in layout.places} if layout else {})
    if len(values) < 3:
        return False
    what = "gradient RMS" if finding.statistic == Stat.L2 else "signal (spread across samples)"
    chart = Chart(_key(finding), f"{what} by layer, newest steps", height=HEIGHT + 60, wide=True)
    part = over_layers(chart, {what: values}, here=finding.where)
    still_board(f"{_key(finding)}-{run.id}", [part])
    st.caption("◆ marks the layer of the finding.")
    return True


def _key(finding: Finding) -> str:
    return f"proof-{finding.code}-{finding.where}-{finding.since_step}"
