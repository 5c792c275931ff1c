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
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.blocks import Column, Shaded, code, rows
from trainvitals_dashboard.parts.board import board, forget_boards, still_board
from trainvitals_dashboard.parts.header import brand
from trainvitals_dashboard.parts.session import age_banner, client, guarded, now
from trainvitals_dashboard.wording import ago, clean, plain, prose, shortened

LINES_MAX = 6
"""Curves in one chart: the palette has six colours."""
MEANINGS = {
    "95 % interval": "over the seeds",
    "final loss": "mean of the last 10 % of the steps; different losses have different units",
    "steps": "median over the seeds until 90 % of the way from a constant prediction to the best "
    "choice; empty if that was not reached",
    "robustness": "relative change of the metric with 10 % of the targets wrong",
    "ECE": "expected calibration error",
    "signal": "standard deviation across samples of the last hidden layer over that of the first, "
    "before the training",
    "learned": "at least a tenth of the way from a constant prediction to a perfect one",
}
"""Column of the table of the choices → its meaning."""


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
    code(
        "example",
        'result = trainvitals.experiment(factory, data, vary="initialisation")\n'
        'result.send("initialisation of my network")',
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
        st.markdown(prose(found.reason.removeprefix("No proven winner: ")))
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
    cells = [[clean(cell) for cell in row.cells] for row in found.rows]
    filled = [i for i in range(len(found.header)) if any(line[i] for line in cells)]
    columns = [Column(clean(found.header[i])) for i in filled]
    rows("choices", "Every choice", columns, [[line[i] for i in filled] for line in cells])
    shown = {found.header[i] for i in filled}
    st.caption(" ".join(f"**{name}**: {text}." for name, text in MEANINGS.items() if name in shown))


def _signals(run: Run, found: Experiment) -> None:
    """Show S of each hidden layer for each choice: as curves, and as a shaded table."""
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
    low, high = math.log10(min(values)), math.log10(max(values))
    names = list(dict.fromkeys(name for one in shown for name in one.layers))
    rows(
        f"signals-{run.id}",
        "Signal of each layer",
        [Column("choice"), *(Column(clean(name), "number") for name in names)],
        [
            (clean(one.choice), *(_shaded(lines.get(name), low, high) for name in names))
            for one in shown
            for lines in [dict(zip(one.layers, one.S, strict=True))]
        ],
    )
    st.caption("One row per choice, first hidden layer at the left; the shade is logarithmic.")


def _shaded(value: float | None, low: float, high: float) -> Shaded:
    """Return a cell; `low` and `high` are the decimal logarithms of the palest and the darkest."""
    if value is None or not math.isfinite(value):
        return Shaded("–")
    share = (math.log10(value) - low) / (high - low) if value > 0 and high > low else 0.0
    return Shaded(number(value), round(share, 2))


if __name__ == "__main__":
    guarded(show)
