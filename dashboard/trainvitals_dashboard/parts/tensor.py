"""The curves of one tensor or module, its initialiser and its findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st
from msgspec.structs import replace

from trainvitals.api.schema import Finding, Layout, Layouts, Place, RunDetail
from trainvitals.api.wording import initialiser_text, percent
from trainvitals.wire import Stat, Stream
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.figures.charts import Chart
from trainvitals_dashboard.figures.curves import Line, Marks, resumes
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.board import board
from trainvitals_dashboard.parts.session import client
from trainvitals_dashboard.wording import (
    SEVERITY_ICON,
    literal,
    plain,
    prose,
    words,
)

# The curves of a selected tensor or module. Those that its stream lacks are left out.
DETAIL = (
    (Stream.WEIGHT, Stat.L2, "Weight (L2)"),
    (Stream.GRADIENT, Stat.L2, "Gradient (L2)"),
    (Stream.UPDATE, Stat.RATIO, "Update: RMS(ΔW) / RMS(W)"),
    (Stream.WEIGHT, Stat.DRIFT_RMS, "Drift from the initial value (RMS)"),
    (Stream.ACTIVATION, Stat.STD, "Output: spread"),
    (Stream.ACTIVATION, Stat.SAMPLE_STD, "Output: spread across samples"),
    (Stream.ACTIVATION, Stat.DEAD_SHARE, "Output: dead share"),
    (Stream.ACTIVATION, Stat.SATURATED_SHARE, "Output: saturated share"),
)
# The distribution of the entries of a tensor: two charts with three curves each, from high to low.
TENSORS = ((Stream.WEIGHT, "Weight"), (Stream.GRADIENT, "Gradient"))
DISTRIBUTIONS = (
    (
        "percentiles of |x|, x ≠ 0",
        {Stat.MAGNITUDE_P95: "95 %", Stat.MAGNITUDE_P50: "median", Stat.MAGNITUDE_P05: "5 %"},
    ),
    (
        "smallest to largest entry",
        {Stat.MAX: "largest", Stat.MEAN: "mean", Stat.MIN: "smallest"},
    ),
)
SHIFTS = ("bias", "norm_shift")


def concerns(finding: Finding, place: str) -> bool:
    """Return whether a finding is about the place or about the module that contains it."""
    return bool(finding.where) and (place == finding.where or place.startswith(f"{finding.where}."))


def tensor_facts(run: RunDetail, layouts: Layouts, findings: Sequence[Finding], name: str) -> None:
    """Show what a tensor or module is, how it was initialised, and its findings."""
    place = _place(layouts, name)
    if place is None:
        st.caption(f"{literal(name)} is not measured in this run.")
        return
    st.caption(" · ".join(_described(place)))
    if place.shape:
        st.caption(_initialiser(run, name))
    about = [f for f in findings if concerns(f, name)]
    for finding in about:
        state = "" if finding.is_open else f", resolved after step {finding.last_step:,}"
        icon = SEVERITY_ICON.get(finding.severity, "") if finding.is_open else ":material/done_all:"
        st.markdown(
            f"{icon} **{plain(finding.code)} {plain(words(finding.rule))}** since step "
            f"{finding.since_step:,}{state}: {prose(finding.summary)}"
        )
    if not about:
        st.caption("No finding concerns it.")


def tensor_curves(run: RunDetail, layouts: Layouts, findings: Sequence[Finding], name: str) -> None:
    """Draw the measured statistics of a tensor or module, and the drift of its module's bias."""
    here = [f for f in findings if f.is_open and concerns(f, name)]
    plans = [
        _plan(run, stream, {statistic: title}, title, name, here)
        for stream, statistic, title in DETAIL
        if _is_measured(layouts.of(stream), statistic, name)
    ]
    plans += [
        _plan(run, stream, lines, f"{of}: {title}", name, here)
        for title, lines in DISTRIBUTIONS
        for stream, of in TENSORS
        if all(_is_measured(layouts.of(stream), statistic, name) for statistic in lines)
    ]
    bias = _bias_beside(layouts, name)
    if bias and _is_measured(layouts.of(Stream.WEIGHT), Stat.DRIFT_RMS, bias):
        about = [f for f in findings if f.is_open and concerns(f, bias)]
        title = "Drift of the layer's bias (RMS)"
        plans.append(
            _plan(run, Stream.WEIGHT, {Stat.DRIFT_RMS: title}, title, bias, about, "detail-bias")
        )
    if plans:
        board(f"detail-{run.id}-{name}", plans, run.step, tools=False)
    elif _place(layouts, name) is not None:
        st.caption("None of its curves was measured.")


def _place(layouts: Layouts, name: str) -> Place | None:
    return next((p for layout in layouts.streams for p in layout.places if p.name == name), None)


def _bias_beside(layouts: Layouts, name: str) -> str | None:
    """Return the bias of the module that owns a weight, None for a bias or without one."""
    place = _place(layouts, name)
    if place is None or not place.shape or place.kind in SHIFTS:
        return None
    layout = layouts.of(Stream.WEIGHT)
    of_module = [p for p in layout.places if p.module == place.module] if layout else []
    return next((p.name for p in of_module if p.kind in SHIFTS), None)


def _is_measured(layout: Layout | None, statistic: str, place: str) -> bool:
    if layout is None or statistic not in layout.statistics:
        return False
    found = next((p for p in layout.places if p.name == place), None)
    # The drift of a matrix is not measured.
    return found is not None and (statistic != Stat.DRIFT_RMS or len(found.shape) == 1)


def _plan(
    run: RunDetail,
    stream: str,
    lines: Mapping[Stat, str],
    title: str,
    place: str,
    findings: Sequence[Finding],
    key: str = "",
) -> ChartPlan:
    """Return a chart with one curve for each statistic of `lines`, which has their names.

    The area between the first and the last of several curves is filled.
    """
    lost = [d for d in run.dropped if d.stream == stream]
    marks = Marks(findings, lost, resumed=resumes(run.events))

    def request(first: int | None, last: int | None, points: int) -> list[Line]:
        found = []
        for statistic, name in lines.items():
            series = client().series(
                run, stream, statistic, [place], from_step=first, to_step=last, points=points
            )
            # A chart tells its curves apart by their place, and these are all of one tensor.
            found += [
                Line(name, replace(curve, place=str(statistic)))
                for curve in series.value.series
                if curve.step
            ]
        return found

    key = key or f"detail-{stream}-{next(iter(lines))}"
    return ChartPlan(Chart(key, title, marks, height=200, filled=len(lines) > 1), request)


def _initialiser(run: RunDetail, name: str) -> str:
    try:
        found = client().initial(run).value.initialisers.get(name)
    except Problem as problem:
        return f"The initialiser is not available: {plain(problem.text)}"
    if found is None:
        return "The initialiser was not identified."
    sure = f" ({percent(found.confidence)} confidence)" if found.confidence else ""
    return f"Initialiser: {plain(initialiser_text(found))}{sure}"


def _described(place: Place) -> list[str]:
    parts = [literal(place.name)]
    if place.kind:
        parts.append(plain(words(place.kind)))
    if place.shape:
        parts.append(" × ".join(map(str, place.shape)))
    if place.module_kind:
        parts.append(f"in {literal(place.module_kind)} {literal(place.module)}")
    if place.aliases:
        parts.append(f"also {', '.join(literal(a) for a in place.aliases[:4])}")
    if not place.trainable:
        parts.append("frozen")
    return parts
