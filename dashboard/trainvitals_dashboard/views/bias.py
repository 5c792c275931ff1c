"""The biases: how far each has moved, compared with the scale of the signal that it shifts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import streamlit as st

from trainvitals.api.schema import Curve, Finding, Heatmap, Layouts, RunDetail
from trainvitals.api.wording import number
from trainvitals.wire import Stat, Stream
from trainvitals_dashboard.figures.charts import Chart
from trainvitals_dashboard.figures.curves import Line, Marks, resumes
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.blocks import Column, rows
from trainvitals_dashboard.parts.board import board
from trainvitals_dashboard.parts.header import run_header
from trainvitals_dashboard.parts.live import Live, live_run
from trainvitals_dashboard.parts.ranges import range_control, window
from trainvitals_dashboard.parts.run_rows import spark_text
from trainvitals_dashboard.parts.session import (
    BIAS,
    client,
    guarded,
)
from trainvitals_dashboard.wording import (
    SEVERITY_ICON,
    at_place,
    clean,
    plain,
    prose,
    words,
)

COLUMNS = 200
LINES_MAX = 6
LIVE_S = 5
CURVE_POINTS = 48
"""Points of a small curve; the table is sent again at each refresh."""
TABLE_COLUMNS = (
    Column("bias"),
    Column("of"),
    Column("smallest", "number"),
    Column("largest", "number"),
    Column("drift (RMS)", "number"),
    Column("drift / S", "number"),
    Column("drift over steps", "curve"),
)
SHIFTED = ("bias", "norm_shift")
"""Kinds of parameters that are added to an output."""
BIAS_RULES = ("TV701", "TV702", "TV703", "TV704")


class Drift(NamedTuple):
    """One bias over steps."""

    name: str
    steps: list[int]
    drift: list[float | None]
    """RMS of its change since the start."""
    ratio: list[float | None]
    """The same, relative to the standard deviation of its layer's output across samples."""


def show() -> None:
    """Show the biases of the run that the URL names; refresh them while it runs."""
    live_run(_page, LIVE_S)


def _page(live: Live) -> None:
    run = live.answer.value
    layouts = client().layout(run)
    findings = client().findings(run).value.findings
    run_header(run, page=BIAS)
    live.progress()
    live.banner(layouts)
    _flagged(findings)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("#### Drift of the biases", width="content", anchors=False)
        range_control(run.step)

    drawn: list[str] = []
    """The biases of the chart: another one in an update would send all points again."""

    def drift(now: Live) -> None:
        newest = now.answer.value
        measured = client().layout(newest).value
        drifts = _drifts(newest, measured)
        if not drifts:
            st.info("No bias was measured in these steps.", icon=":material/hourglass_empty:")
            return
        _chart(newest, drifts, findings, drawn)

    def table(now: Live) -> None:
        newest = now.answer.value
        measured = client().layout(newest).value
        if drifts := _drifts(newest, measured):
            _table(newest, measured, drifts, live=now.every_s is not None)

    # Apart: each of the two updates has at most 4 KB.
    live.refreshed(drift)
    live.refreshed(table)


def _flagged(findings: Sequence[Finding]) -> None:
    shown = [f for f in findings if f.code in BIAS_RULES and f.is_open]
    for finding in shown:
        st.markdown(
            f"{SEVERITY_ICON.get(finding.severity, '')} **{plain(finding.code)} "
            f"{plain(words(finding.rule))}** {at_place(finding.where)} since step "
            f"{finding.since_step:,}: {prose(finding.summary)}"
        )
    if not shown:
        st.caption("No finding about the biases is open.")


def _drifts(run: RunDetail, layouts: Layouts) -> list[Drift]:
    layout = layouts.of(Stream.WEIGHT)
    biases = {p.name: p for p in layout.places if p.kind in SHIFTED} if layout else {}
    if not biases:
        return []
    moved = _heat(run, Stream.WEIGHT, Stat.DRIFT_RMS)
    outputs = layouts.of(Stream.ACTIVATION)
    module = {p.name: p.module for p in outputs.places} if outputs else {}
    spread = _heat(run, Stream.ACTIVATION, Stat.SAMPLE_STD) if outputs else None
    of_module: dict[str, dict[int, float]] = {}
    if spread is not None:
        for place, row in zip(spread.places, spread.values, strict=True):
            known = {s: v for s, v in zip(spread.steps, row, strict=True) if v}
            of_module.setdefault(module.get(place, ""), known)
    found = []
    for place, row in zip(moved.places, moved.values, strict=True):
        if place in biases and any(v is not None for v in row):
            scale = of_module.get(biases[place].module, {})
            ratio = [
                None if v is None or s not in scale else v / scale[s]
                for s, v in zip(moved.steps, row, strict=True)
            ]
            found.append(Drift(place, moved.steps, list(row), ratio))
    return sorted(found, key=lambda d: -(newest(d.ratio) or newest(d.drift) or 0.0))


def _heat(run: RunDetail, stream: str, statistic: str) -> Heatmap:
    shown = window()
    return (
        client()
        .heatmap(
            run,
            stream,
            statistic,
            from_step=shown.first,
            to_step=shown.last,
            columns=COLUMNS,
        )
        .value
    )


def newest(values: Sequence[float | None]) -> float | None:
    """Return the last value that was measured; None if there is none."""
    return next((v for v in reversed(values) if v is not None), None)


def _chart(
    run: RunDetail, drifts: Sequence[Drift], findings: Sequence[Finding], drawn: list[str]
) -> None:
    """Draw the biases named in `drawn`; where it is empty, choose them and add their names."""
    known = {d.name: d for d in drifts}
    relative = [d for d in drifts if newest(d.ratio) is not None][:LINES_MAX]
    if not all(name in known for name in drawn):
        drawn.clear()
    drawn[:] = drawn or [d.name for d in relative or drifts[:LINES_MAX]]
    shown = [known[name] for name in drawn]
    st.caption(
        "**Drift / S**: change since the start, relative to the spread of the layer's output "
        "across samples; above 1 the bias outweighs the signal"
        if relative
        else "**Drift**: RMS of the change since the start"
    )

    def lines(first: int | None, _last: int | None, points: int) -> list[Line]:
        return [
            Line(clean(d.name), _curve(d, d.ratio if relative else d.drift, first or 0, points))
            for d in shown
        ]

    marks = Marks(
        [f for f in findings if f.code in BIAS_RULES and f.is_open],
        [d for d in run.dropped if d.stream == Stream.WEIGHT],
        resumed=resumes(run.events),
    )
    # The heat-maps of the table above have the points already.
    plan = ChartPlan(
        Chart("bias", "Drift / S" if relative else "Drift", marks, height=300, wide=True),
        lines,
    )
    board(f"bias-{run.id}", [plan], run.step)


def _curve(drift: Drift, values: Sequence[float | None], first: int, points: int) -> Curve:
    """Return the values from the step `first` on in at most `points` buckets."""
    known = [(s, v) for s, v in zip(drift.steps, values, strict=True) if v is not None]
    known = [(step, value) for step, value in known if step >= first]
    size = max(1, -(-len(known) // points))
    parts = [known[i : i + size] for i in range(0, len(known), size)]
    numbers = [[value for _, value in part] for part in parts]
    return Curve(
        drift.name,
        [part[0][0] for part in parts],
        [part[-1][0] for part in parts],
        [min(n) for n in numbers],
        [sum(n) / len(n) for n in numbers],
        [max(n) for n in numbers],
        [n[-1] for n in numbers],
        [0] * len(parts),
        [len(part) for part in parts],
    )


def _table(run: RunDetail, layouts: Layouts, drifts: Sequence[Drift], *, live: bool) -> None:
    lowest, highest = (
        {p: newest(row) for p, row in zip(heat.places, heat.values, strict=True)}
        for heat in (_heat(run, Stream.WEIGHT, Stat.MIN), _heat(run, Stream.WEIGHT, Stat.MAX))
    )
    layout = layouts.of(Stream.WEIGHT)
    places = {p.name: p for p in layout.places} if layout else {}
    cells = [
        (
            clean(d.name),
            clean(places[d.name].module_kind) if d.name in places else "",
            _text(lowest.get(d.name)),
            _text(highest.get(d.name)),
            _text(newest(d.drift)),
            _text(newest(d.ratio)),
            spark_text(evenly(d)),
        )
        for d in drifts
    ]
    rows("biases", "Biases", TABLE_COLUMNS, cells, live=live)
    st.caption(
        "The largest drift comes first. Smallest and largest are the extremes of the newest "
        "measured step. What to do: "
        "`remedies.biases.parameter_groups` (own learning rate, no or L2 decay), "
        "`remedies.biases.recentre`, `remedies.biases.audit`."
        + (" While the run goes on, rows are updated in turns." if live else "")
    )


def evenly(drift: Drift) -> list[float]:
    """Return CURVE_POINTS values of the drift at equal distances of steps.

    The measured steps have no equal distances: a run is captured more often near a finding.
    """
    known = [(s, v) for s, v in zip(drift.steps, drift.drift, strict=True) if v is not None]
    steps, values = zip(*known, strict=True)
    at = np.linspace(steps[0], steps[-1], CURVE_POINTS)
    return [float(v) for v in np.interp(at, steps, values)]


def _text(value: float | None) -> str:
    return "–" if value is None else number(value)


if __name__ == "__main__":
    guarded(show)
