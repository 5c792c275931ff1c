"""A heat-map of one statistic over layers and steps, and the curves of one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from trainvitals.api.schema import Finding, Heatmap, Layout, Layouts, RunDetail
from trainvitals.wire import Stat, Stream
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.figures.heat import Ask, HeatRows
from trainvitals_dashboard.parts.board import heat_board
from trainvitals_dashboard.parts.header import run_header
from trainvitals_dashboard.parts.live import Live, live_run
from trainvitals_dashboard.parts.ranges import range_control
from trainvitals_dashboard.parts.session import (
    LAYERS,
    client,
    guarded,
)
from trainvitals_dashboard.parts.tensor import concerns, tensor_curves, tensor_facts
from trainvitals_dashboard.wording import (
    SEVERITIES,
    SEVERITY_ICON,
    at_place,
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
LIVE_S = 5


def show() -> None:
    """Show the run, the statistic and the tensor that the URL names."""
    live_run(_page, LIVE_S)


def _page(live: Live) -> None:
    run = live.answer.value
    layouts = client().layout(run)
    findings = client().findings(run).value.findings
    run_header(run, page=LAYERS)
    live.progress()
    live.banner(layouts)
    measured = _measured(layouts.value)

    def checked(now: Live) -> None:
        if _measured(client().layout(now.answer.value).value) != measured:
            st.rerun()  # a stream was measured for the first time

    if not measured:
        live.refreshed(checked)
        st.info("No layer was measured yet.", icon=":material/hourglass_empty:")
        return
    stream, statistic = _choice(layouts.value, measured, run)
    _flagged(findings)
    layout = layouts.value.of(stream)
    if layout is None:
        return
    places = [p.name for p in layout.places]
    _clicked(run, stream, places)
    rows = rows_of(layout, statistic, findings)

    def heat(now: Live) -> None:
        checked(now)
        _heat(now.answer.value, layout, statistic, rows)

    live.refreshed(heat)
    place = _selected(places, rows.unit)
    if place:
        tensor_facts(run, layouts.value, findings, place)
        live.refreshed(lambda now: tensor_curves(now.answer.value, layouts.value, findings, place))


def rows_of(layout: Layout, statistic: str, findings: Sequence[Finding]) -> HeatRows:
    """Return the rows of a stream in order of depth, with the severity of their open findings."""
    places = sorted(layout.places, key=lambda p: (p.depth < 0, p.depth))
    names = [place.name for place in places]
    title = f"{layout.stream} {statistic_words(statistic)}"
    unit = "modules" if layout.stream == Stream.ACTIVATION else "tensors"
    merged = "largest" if statistic == Stat.NONFINITE else "median"
    return HeatRows.of(title, names, severities_of(findings, names), unit, merged)


def severities_of(findings: Sequence[Finding], places: Sequence[str]) -> dict[str, str]:
    """Return place → severity of its worst open finding. A module's finding marks its tensors."""
    found: dict[str, str] = {}
    for severity in reversed(SEVERITIES):
        for finding in findings:
            if finding.is_open and finding.severity == severity:
                found |= {place: severity for place in places if concerns(finding, place)}
    return found


def _ask(run: RunDetail, layout: Layout, statistic: str) -> Ask:
    """Return the function that requests cells; a tensor with NaN or ∞ is not finite in any
    statistic."""
    counted = Stat.NONFINITE in layout.statistics and statistic != Stat.NONFINITE

    def ask(
        places: Sequence[str] | None, first: int | None, last: int | None, columns: int
    ) -> Heatmap:
        def heat(wanted: str) -> Heatmap:
            return (
                client()
                .heatmap(
                    run,
                    layout.stream,
                    wanted,
                    from_step=first,
                    to_step=last,
                    columns=columns,
                    places=places,
                    by="block" if places is None else "place",
                )
                .value
            )

        return with_nonfinite(heat(statistic), heat(Stat.NONFINITE)) if counted else heat(statistic)

    return ask


def with_nonfinite(data: Heatmap, counts: Heatmap) -> Heatmap:
    """Return the map with the cells marked whose count of NaN and ∞ is above 0.

    Statistics are over the finite entries of a tensor: a tensor with one NaN has a finite norm.
    Counts with other columns, of a run that went on meanwhile, are left out.
    """
    if not counts.high or counts.steps != data.steps or counts.places != data.places:
        return data
    marked = [
        sorted({*(data.nonfinite[i] if i < len(data.nonfinite) else ()), *_above_zero(row)})
        for i, row in enumerate(counts.values)
    ]
    return Heatmap(
        data.stream,
        data.statistic,
        data.places,
        data.steps,
        data.values,
        data.last_steps,
        marked,
        data.low,
        data.high,
        data.least_positive,
    )


def _above_zero(row: Sequence[float | None]) -> list[int]:
    return [i for i, v in enumerate(row) if v is not None and v > 0]


def _measured(layouts: Layouts) -> list[Stream]:
    return [stream for stream in STREAMS if _has_rows(layouts, stream)]


def _has_rows(layouts: Layouts, stream: str) -> bool:
    layout = layouts.of(stream)
    return layout is not None and bool(layout.places)


def _choice(layouts: Layouts, measured: Sequence[Stream], run: RunDetail) -> tuple[str, str]:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
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


def _heat(run: RunDetail, layout: Layout, statistic: str, rows: HeatRows) -> None:
    ask = _ask(run, layout, statistic)
    key = f"heat-{run.id}-{rows.title}"
    # At the first run of the script, only the URL has the selected tensor.
    here = st.session_state.get("place") or st.query_params.get("place", "")
    try:
        click = heat_board(key, rows, ask, run.step, here=here)
    except Problem as problem:
        st.caption(f"No heat-map: {plain(problem.text)}")
        return
    if click is not None:
        # The selection belongs to this run and stream; another page of layers ignores it.
        st.session_state[_CLICKED] = (run.id, layout.stream, click.place)
        st.rerun()


_CLICKED = "clicked_tensor"


def _clicked(run: RunDetail, stream: str, places: Sequence[str]) -> None:
    """Select the tensor that was clicked, before its selection box is drawn."""
    of_run, of_stream, place = st.session_state.pop(_CLICKED, ("", "", ""))
    if (of_run, of_stream) == (run.id, stream) and place in places:
        st.session_state["place"] = place


def _selected(places: Sequence[str], unit: str) -> str | None:
    kind = unit.removesuffix("s")
    st.markdown(f"#### {kind.capitalize()}", anchors=False)
    return st.selectbox(
        kind.capitalize(),
        places,
        index=None,
        key="place",
        bind="query-params",
        placeholder=f"Select a {kind}, or click one above",
        label_visibility="collapsed",
    )


if __name__ == "__main__":
    guarded(show)
