"""The results of experiments: the recommendation, curves with bands, the signal, the table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import streamlit as st

from trainvitals.api.experiment import TAG
from trainvitals.api.schema import Curve, Experiment, ExperimentCurve, Run
from trainvitals.api.wording import number
from trainvitals_dashboard.figures.charts import Chart, over_layers
from trainvitals_dashboard.figures.curves import Line, rounded
from trainvitals_dashboard.figures.palette import palette
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.board import board, forget_boards, still_board
from trainvitals_dashboard.parts.header import brand
from trainvitals_dashboard.parts.session import age_banner, client, guarded, is_dark, now
from trainvitals_dashboard.wording import ago, clean, plain, prose, shortened, table

LINES_MAX = 6
"""Curves in one chart: the palette has six colours."""


def show() -> None:
    """Show the experiment that the URL names (`run=`), the newest one without."""
    forget_boards()
    answer = client().every_run()
    known = {run.id: run for run in answer.value.runs if TAG in run.tags}
    with st.container(horizontal=True, vertical_alignment="center"):
        brand()
        st.caption(f"Experiments · {len(known):,}", width="content")
    age_banner(answer)
    if not known:
        _none_yet()
        return
    run = known[_choice(known)]
    found = _experiment_of(client().run(run.id).value.config)
    if found is None:
        st.warning(
            f"The run {plain(run.name)} has the tag `{TAG}`, but no result of an experiment that "
            "this version can read.",
            icon=":material/help:",
        )
        return
    _verdict(found)
    _curves(run, found)
    _table(found)
    _signals(run, found)


def _none_yet() -> None:
    st.info("No experiment was sent to this collector.", icon=":material/science:")
    st.caption("Compare initialisations, losses or learning rates, and send the result:")
    st.code(
        'result = trainvitals.experiment(factory, data, vary="initialisation")\n'
        'result.send("initialisation of my network")',
        language="python",
    )


def _choice(known: dict[str, Run]) -> str:
    wanted = st.query_params.get("run", "")
    names = list(known)
    chosen: str = st.selectbox(
        "Experiment",
        names,
        index=names.index(wanted) if wanted in known else 0,
        format_func=lambda run: clean(
            f"{shortened(known[run].name or run, 60)} · {ago(known[run].started_at, now())}"
        ),
    )
    if chosen != wanted:
        st.query_params["run"] = chosen
    return chosen


def _experiment_of(config: dict[str, object]) -> Experiment | None:
    try:
        return msgspec.convert(config.get(TAG), Experiment)
    except msgspec.ValidationError:
        return None


def _verdict(found: Experiment) -> None:
    better = "higher is better" if found.higher_is_better else "lower is better"
    with st.container(border=True):
        if found.best is None:
            st.markdown("### No proven winner", anchors=False)
        else:
            st.markdown(f"### {plain(found.best)} is the best choice", anchors=False)
        st.markdown(prose(found.reason))
        st.caption(
            f"{plain(found.metric)} ({better}), {found.steps:,} steps, {found.seeds} seeds, "
            f"{len(found.rows)} choices"
        )
        for note in found.notes:
            st.caption(prose(note))


def _curves(run: Run, found: Experiment) -> None:
    st.markdown("#### During the training", anchors=False)
    charts = max(1, math.ceil(len(found.curves) / LINES_MAX))
    lines = max(1, math.ceil(len(found.curves) / charts))
    for first in range(0, len(found.curves), lines):
        part = found.curves[first : first + lines]
        title = f"{found.metric} on the held-out data: mean and range over the seeds"
        if charts > 1:
            title = f"{title} ({first // lines + 1} of {charts})"
        chart = Chart(f"metric-{first}", title, height=320, wide=True)
        board(f"experiment-{run.id}-{first}", [_plan(chart, part)], found.steps, tools=first == 0)


def _plan(chart: Chart, curves: Sequence[ExperimentCurve]) -> ChartPlan:
    def request(first: int | None, last: int | None, points: int) -> list[Line]:  # noqa: ARG001 - a curve has at most 20 points
        return [Line(one.choice, _within(one, first or 0, last)) for one in curves]

    return ChartPlan(chart, request)


def _within(one: ExperimentCurve, first: int, last: int | None) -> Curve:
    kept = [i for i, s in enumerate(one.steps) if s >= first and (last is None or s <= last)]
    steps = [one.steps[i] for i in kept]
    mean = [one.mean[i] for i in kept]
    return Curve(
        one.choice,
        steps,
        steps,
        [rounded(one.low[i]) for i in kept],
        mean,
        [rounded(one.high[i]) for i in kept],
        mean,
        [0] * len(kept),
        [one.seeds[i] for i in kept],
    )


def _table(found: Experiment) -> None:
    st.markdown("#### Every choice", anchors=False)
    # Markdown: its cells wrap. A data frame cuts off long cells, such as the diagnosis.
    cells = [[plain(cell) for cell in row.cells] for row in found.rows]
    filled = [i for i in range(len(found.header)) if any(line[i] for line in cells)]
    header = [plain(found.header[i]) for i in filled]
    st.markdown(table(header, [[line[i] for i in filled] for line in cells]))
    st.caption(
        "The interval is the 95 % interval over the seeds. Final losses of different losses "
        "have different units."
    )


def _signals(run: Run, found: Experiment) -> None:
    """Show S of each hidden layer for each choice: as curves, and as a table with colours."""
    st.markdown("#### Signal through the depth, before the training", anchors=False)
    shown = [one for one in found.signals if len(one.layers) > 1]
    if not shown:
        st.caption("The network has fewer than two hidden layers.")
        return
    lines = {
        one.choice: {n: v for n, v in zip(one.layers, one.S, strict=True) if v is not None}
        for one in shown[:LINES_MAX]
    }
    chart = Chart(
        f"signal-{run.id}", "Spread of the output across samples (S)", height=280, wide=True
    )
    still_board(f"signal-{run.id}", [over_layers(chart, lines)])
    values = [v for one in shown for v in one.S if v]
    if not values:
        return
    # Imported here: only this table needs it, and Streamlit imports it anyway for a table.
    import pandas as pd  # type: ignore[import-untyped]  # pandas has no types of its own

    frame = pd.DataFrame(
        {clean(one.choice): dict(zip(map(clean, one.layers), one.S, strict=True)) for one in shown}
    ).T
    low, high, dark = math.log10(min(values)), math.log10(max(values)), is_dark()
    st.dataframe(
        frame.style.map(lambda v: _coloured(v, low, high, dark)).format(number, na_rep="–"),
    )
    st.caption("One row per choice, first hidden layer at the left; the colour is logarithmic.")


def _coloured(value: float | None, low: float, high: float, dark: bool) -> str:
    """Return CSS: small to large in the sequential colours of the theme, none for no value."""
    if value is None or not math.isfinite(value):
        return ""
    colours = palette(dark).sequential
    share = (math.log10(value) - low) / (high - low) if value > 0 and high > low else 0.0
    at = round(share * (len(colours) - 1))
    is_strong = at >= len(colours) // 2
    text = "#0f1519" if is_strong == dark else "#ffffff"
    return f"background-color: {colours[at]}; color: {text}"


if __name__ == "__main__":
    guarded(show)
