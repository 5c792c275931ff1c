"""The chart that shows the evidence of a finding."""

from __future__ import annotations

import streamlit as st

from trainvitals.api.schema import Finding, RunDetail
from trainvitals.wire import Stat, Stream
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.figures import evidence
from trainvitals_dashboard.figures.curves import Line, Marks, curves
from trainvitals_dashboard.figures.depth import newest_by_place, per_entry, through_depth
from trainvitals_dashboard.parts.session import client, is_dark
from trainvitals_dashboard.wording import literal, plain, statistic_words, words

HEIGHT = 240
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
    series = client().series(run, wanted.stream, wanted.statistic, [wanted.place]).value
    found = [curve for curve in series.series if curve.step]
    if not found:
        return False
    limit = evidence.threshold(finding)
    is_scalar = wanted.stream == Stream.SCALAR
    title = (
        words(wanted.place) if is_scalar else f"{wanted.stream} {statistic_words(wanted.statistic)}"
    )
    st.caption(plain(title) if is_scalar else f"{plain(title)} of {literal(wanted.place)}")
    st.echarts_chart(
        curves(
            [Line(title, found[0])],
            dark=is_dark(),
            marks=Marks(
                [finding],
                [d for d in run.dropped if d.stream == wanted.stream],
                *(limit or (None, "")),
            ),
        ),
        height=HEIGHT,
        key=f"proof-{finding.code}-{finding.where}-{finding.since_step}",
        alt=f"{title}; the finding begins at step {finding.since_step}.",
    )
    return True


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
    st.caption(f"{what} by layer, first to last, newest steps; ◆ marks the layer of the finding")
    st.echarts_chart(
        through_depth({what: values}, dark=is_dark(), here=finding.where),
        height=HEIGHT + 60,
        key=f"proof-{finding.code}-{finding.where}-{finding.since_step}",
        alt=f"{what} of each layer, from the first to the last.",
    )
    return True
