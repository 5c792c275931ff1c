"""A heat-map of one statistic over layers and steps, and the curves of one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from trainvitals.api.schema import Finding, Heatmap, Layout, Layouts, RunDetail
from trainvitals.wire import Stat, Stream
from trainvitals_dashboard.client import Answer, Problem
from trainvitals_dashboard.figures.charts import Chart
from trainvitals_dashboard.figures.curves import Line, Marks
from trainvitals_dashboard.figures.heat import heat
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.board import board
from trainvitals_dashboard.parts.header import run_header
from trainvitals_dashboard.parts.live import live_run
from trainvitals_dashboard.parts.ranges import range_control, window
from trainvitals_dashboard.parts.session import (
    LAYERS,
    age_banner,
    client,
    guarded,
    is_dark,
)
from trainvitals_dashboard.wording import (
    SEVERITIES,
    SEVERITY_ICON,
    SEVERITY_SIGN,
    at_place,
    literal,
    plain,
    prose,
    statistic_words,
    words,
)

STREAMS = (Stream.GRADIENT, Stream.WEIGHT, Stream.UPDATE, Stream.ACTIVATION)
FIRST_STATISTIC = {
    Stream.GRADIENT: Stat.L2,
    Stream.WEIGHT: Stat.L2,
    Stream.UPDATE: Stat.RATIO,
    Stream.ACTIVATION: Stat.SAMPLE_STD,
}
# The curves of a selected tensor or module, as far as its stream has them.
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
COLUMNS = 200
LIVE_S = 5


def show() -> None:
    """Show the run, the statistic and the tensor that the URL names."""
    live_run(_page, LIVE_S)


def _page(answer: Answer[RunDetail]) -> None:
    run = answer.value
    layouts = client().layout(run)
    findings = client().findings(run).value.findings
    run_header(run, page=LAYERS)
    age_banner(answer, layouts)
    measured = [s for s in STREAMS if _has_rows(layouts.value, s)]
    if not measured:
        st.info("No layer was measured yet.", icon=":material/hourglass_empty:")
        return
    stream, statistic = _choice(layouts.value, measured, run)
    _flagged(findings)
    clicked = _heat(run, stream, statistic, findings)
    _detail(run, layouts.value, stream, findings, clicked)


def _has_rows(layouts: Layouts, stream: str) -> bool:
    layout = layouts.of(stream)
    return layout is not None and bool(layout.places)


def _choice(layouts: Layouts, measured: Sequence[Stream], run: RunDetail) -> tuple[str, str]:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        names = [str(s) for s in measured]
        stream = st.segmented_control(
            "What",
            names,
            default=names[0],
            required=True,
            key="stream",
            bind="query-params",
            label_visibility="collapsed",
        )
        statistic = _statistic(layouts, stream or names[0])
        range_control(run.step)
    return stream or names[0], statistic


def _statistic(layouts: Layouts, stream: str) -> str:
    layout = layouts.of(stream)
    statistics = list(layout.statistics) if layout else []
    usual = str(FIRST_STATISTIC[Stream(stream)])
    wanted = st.query_params.get("statistic", usual)
    # Not bound to the URL: a bound selectbox would write the formatted labels into it.
    chosen = st.selectbox(
        "Statistic",
        statistics,
        index=next((statistics.index(s) for s in (wanted, usual) if s in statistics), 0),
        format_func=statistic_words,
        key=f"statistic-{stream}",
        label_visibility="collapsed",
        width=220,
    )
    chosen = chosen or usual
    if chosen != wanted:
        st.query_params["statistic"] = chosen
    return chosen


def _flagged(findings: Sequence[Finding]) -> None:
    at_layers = [f for f in findings if f.is_open and f.where and f.severity != "info"]
    for finding in at_layers[:6]:
        st.markdown(
            f"{SEVERITY_ICON.get(finding.severity, '')} **{plain(finding.code)} "
            f"{plain(words(finding.rule))}** {at_place(finding.where)} since step "
            f"{finding.since_step:,}: {prose(finding.summary)}"
        )


def signs_of(findings: Sequence[Finding], places: Sequence[str]) -> dict[str, str]:
    """Return place → sign of its worst open finding. A module's finding also marks its tensors."""
    signs: dict[str, str] = {}
    for severity in reversed(SEVERITIES):
        for finding in findings:
            if finding.is_open and finding.severity == severity and finding.where:
                for place in places:
                    if place == finding.where or place.startswith(f"{finding.where}."):
                        signs[place] = SEVERITY_SIGN[severity]
    return signs


def _heat(run: RunDetail, stream: str, statistic: str, findings: Sequence[Finding]) -> str | None:
    shown = window()
    try:
        data = (
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
    except Problem as problem:
        st.caption(f"No heat-map: {plain(problem.text)}")
        return None
    if not any(v is not None for row in data.values for v in row):
        st.info(
            f"{statistic_words(statistic)} was not measured in these steps.",
            icon=":material/grid_off:",
        )
        return None
    # A selection is a cell index, which is only valid for the same run, stream and range.
    return _heat_chart(data, findings, f"heat-{run.id}-{stream}-{statistic}-{shown}")


def _heat_chart(data: Heatmap, findings: Sequence[Finding], key: str) -> str | None:
    figure = heat(data, dark=is_dark(), signs=signs_of(findings, data.places))
    scale = {
        "log": "logarithmic colour scale",
        "diverging": "colour scale centred on zero",
        "linear": "",
    }[figure.scale]
    said = f"**{data.stream} {plain(statistic_words(data.statistic))}**, first layer at the top"
    st.caption(
        " · ".join(part for part in (said, scale, "click a cell to select its tensor") if part)
    )
    event = st.echarts_chart(
        figure.option,
        height=figure.height,
        key=key,
        on_select="rerun",
        alt=f"{data.stream} {words(data.statistic)} of {len(data.places)} layers over steps",
    )
    if figure.left_out:
        st.caption(f"{figure.left_out} more layers are not shown; select one below.")
    selected = event["selection"]["selected"]
    indices = selected[0]["data_indices"] if selected else []
    return figure.cells[indices[-1]] if indices and indices[-1] < len(figure.cells) else None


def _detail(
    run: RunDetail,
    layouts: Layouts,
    stream: str,
    findings: Sequence[Finding],
    clicked: str | None,
) -> None:
    layout = layouts.of(stream)
    places = [p.name for p in layout.places] if layout else []
    # A chart keeps its selection over reruns; only a new click changes the selected tensor.
    seen = f"clicked-{run.id}-{stream}"
    if clicked in places and clicked != st.session_state.get(seen):
        st.session_state[seen] = clicked
        st.session_state["place"] = clicked
    st.markdown("#### Tensor", anchors=False)
    place = st.selectbox(
        "Tensor",
        places,
        index=None,
        key="place",
        bind="query-params",
        placeholder="Select a tensor, or click a cell above",
        label_visibility="collapsed",
    )
    if not place or layout is None:
        return
    st.caption(_described(layout, place))
    here = [f for f in findings if f.is_open and f.where and _concerns(f, place)]
    plans = [
        _plan(run, wanted, statistic, title, place, here)
        for wanted, statistic, title in DETAIL
        if _is_measured(layouts.of(wanted), statistic, place)
    ]
    if plans:
        board(f"detail-{run.id}-{place}", plans, run.step)
    else:
        st.caption("This tensor was not measured.")


def _is_measured(layout: Layout | None, statistic: str, place: str) -> bool:
    return (
        layout is not None
        and statistic in layout.statistics
        and any(p.name == place for p in layout.places)
    )


def _plan(
    run: RunDetail,
    stream: str,
    statistic: str,
    title: str,
    place: str,
    findings: Sequence[Finding],
) -> ChartPlan:
    marks = Marks(findings, [d for d in run.dropped if d.stream == stream])

    def request(first: int | None, last: int | None, points: int) -> list[Line]:
        series = client().series(
            run, stream, statistic, [place], from_step=first, to_step=last, points=points
        )
        return [Line(title, curve) for curve in series.value.series if curve.step]

    return ChartPlan(Chart(f"detail-{stream}-{statistic}", title, marks, height=200), request)


def _concerns(finding: Finding, place: str) -> bool:
    return place == finding.where or place.startswith(f"{finding.where}.")


def _described(layout: Layout, name: str) -> str:
    place = next(p for p in layout.places if p.name == name)
    parts = [literal(name)]
    if place.kind:
        parts.append(plain(words(place.kind)))
    if place.shape:
        parts.append(" × ".join(map(str, place.shape)))
    if place.module_kind:
        parts.append(f"in {literal(place.module_kind)} {literal(place.module)}")
    return " · ".join(parts)


if __name__ == "__main__":
    guarded(show)
