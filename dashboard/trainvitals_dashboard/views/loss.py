"""The loss of a run: its course, noise and terms, the validation loss, predictions and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from trainvitals.api.schema import Checkup, Curve, Finding, RunDetail, Stage
from trainvitals.api.wording import number
from trainvitals.wire import EventKind, Scalar, Stat, Stream
from trainvitals_dashboard.client import VALUES
from trainvitals_dashboard.figures.charts import Chart
from trainvitals_dashboard.figures.curves import Line, Marks, resumes
from trainvitals_dashboard.figures.loss import (
    DECLINE_ERRORS,
    WINDOW_MAX,
    WINDOWS,
    Best,
    Noise,
    lowest,
    newest,
    noise_of,
)
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.board import board
from trainvitals_dashboard.parts.header import run_header
from trainvitals_dashboard.parts.live import Live, live_run
from trainvitals_dashboard.parts.ranges import range_control
from trainvitals_dashboard.parts.scalars import Scalars
from trainvitals_dashboard.parts.session import LOSS, client, guarded
from trainvitals_dashboard.parts.verdict import finding_expander
from trainvitals_dashboard.wording import clean, plain, prose, table, words

LIVE_S = 3
LINES_MAX = 6
POINTS_MAX = 2000
"""Points that the API sends at most."""
AROUND = 10
"""Steps before and after an evaluation whose mean training loss it is compared with."""
RANGES = ("prediction", "target")
PARTS = {"max": "largest", "mean": "mean", "min": "smallest"}
NOT_REPORTED = {
    "training loss": "no training loss was reported: `monitor.loss(value)`, or `loss=` of "
    "`trainvitals.watch`",
    "validation loss": "no validation loss was reported: `monitor.loss(value, split='validation')`",
    "loss terms": "the loss was not reported by terms, `monitor.loss({'ce': a, 'kl': b})`, and is "
    "no sum of two to four loss functions of torch",
    "predictions": "they were not found in the loss's graph: "
    "`monitor.loss(value, prediction=…, target=…)`",
    "targets": "they were not found in the loss's graph: "
    "`monitor.loss(value, prediction=…, target=…)`",
    "supervised share": "the targets were not found: `monitor.loss(value, target=…)`",
}
"""The text in place of missing values: how to report them."""

NO_LOSS = "no training loss was reported"

Curves = Mapping[str, Curve]


def show() -> None:
    """Show the loss of the run that the URL names; refresh it while the run goes on."""
    live_run(_page, LIVE_S)


def _page(live: Live) -> None:
    run = live.answer.value
    asked = client().findings(run)
    initial = client().initial(run)
    run_header(run, page=LOSS)
    live.progress()
    live.banner(asked, initial)
    _flagged(run, asked.value.findings)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("#### Loss", width="content", anchors=False)
        range_control(run.step)

    def numbers(now: Live) -> None:
        run, start = now.answer.value, initial.value
        if start.initial_loss is None:  # a page that was opened before the first steps
            start = client().initial(run).value
        _numbers(run, _losses(run), start)

    def charts(now: Live) -> None:
        run = now.answer.value
        best = _best_of_each(run, _losses(run))
        _charts(run, _names(run), asked.value.findings, best)

    def rest(now: Live) -> None:
        run = now.answer.value
        whole = _losses(run)
        _evaluations(run, whole, _best_of_each(run, whole))
        _missing(run, _names(run), whole)

    # Apart: each of the updates has at most 4 KB.
    for part in (numbers, charts, rest):
        live.refreshed(part)


def _losses(run: RunDetail) -> dict[str, Curve]:
    return _curves(run, [name for name in _names(run) if _is_loss(name)])


def concerns_loss(finding: Finding) -> bool:
    """Return whether a finding is about the loss, the predictions or the targets."""
    names = (Scalar.LOSS, "prediction", "predicted", "target", "supervised", "nonfinite_target")
    return finding.stage is Stage.LOSS or (
        finding.stream == Stream.SCALAR and finding.statistic.startswith(names)
    )


def _flagged(run: RunDetail, findings: Sequence[Finding]) -> None:
    shown = [f for f in findings if f.is_open and concerns_loss(f)]
    for finding in shown:
        finding_expander(run, finding, findings)
    if not shown:
        st.caption("No finding about the loss is open.")


def _names(run: RunDetail) -> list[str]:
    layout = client().layout(run).value.of(Stream.SCALAR)
    return [place.name for place in layout.places] if layout else []


def _is_loss(name: str) -> bool:
    return name == Scalar.LOSS or name.startswith(f"{Scalar.LOSS}/")


def _curves(
    run: RunDetail,
    names: Sequence[str],
    first: int | None = None,
    last: int | None = None,
    points: int = 500,
) -> dict[str, Curve]:
    """Return name → curve of the scalars that have values in these steps."""
    if not names:
        return {}
    series = client().series(
        run,
        Stream.SCALAR,
        Stat.VALUE,
        names[:50],
        from_step=first,
        to_step=last,
        points=points,
        values=VALUES,
    )
    return {curve.place: curve for curve in series.value.series if curve.step}


def _best_of_each(run: RunDetail, whole: Curves) -> dict[str, Best]:
    """Return split → its lowest loss; a bucket of several steps is requested in full detail."""
    found = {}
    for name, curve in whole.items():
        best = lowest(curve) if name != Scalar.LOSS else None
        if best is not None and best.first != best.last:
            last = min(best.last, best.first + POINTS_MAX - 1)
            detail = _curves(run, [name], best.first, last, POINTS_MAX)
            best = (lowest(detail[name]) if name in detail else None) or best
        if best is not None:
            found[name.partition("/")[2]] = best
    return found


def _numbers(run: RunDetail, whole: Curves, initial: Checkup) -> None:
    loss = initial.initial_loss
    # A loss that is not reported at each step has fewer values in these steps.
    recent = _curves(run, [Scalar.LOSS], max(0, run.step - POINTS_MAX + 1), None, POINTS_MAX)
    noise = noise_of(recent.get(Scalar.LOSS)) if Scalar.LOSS in whole else NO_LOSS
    now = newest(whole[Scalar.LOSS]) if Scalar.LOSS in whole else None
    with st.container(horizontal=True, gap="medium"):
        st.metric("Training loss", number(now[1] if now else None), help="The newest one")
        st.metric(
            "First loss",
            number(loss.seen if loss else None),
            help="The loss before the first update",
        )
        formula = f": {plain(loss.formula)}" if loss and loss.formula else ""
        st.metric(
            "Expected first loss",
            number(loss.expected if loss else None),
            help=f"The loss of a prediction that ignores the input{formula}",
        )
        _noise(noise)
    st.caption(_noise_text(noise) if isinstance(noise, Noise) else f"Noise: {noise}.")
    if loss is None:
        st.caption(
            "First loss: the first steps were not measured, or the loss function is unknown."
        )
    elif loss.expected is None:
        st.caption("Expected first loss: unknown for this loss function.")


def _noise(noise: Noise | str) -> None:
    known = noise if isinstance(noise, Noise) else None
    st.metric(
        "Noise",
        number(known.std if known else None),
        help="Standard deviation of one loss around its trend, in the newest losses",
    )
    st.metric(
        f"Decline per {known.window if known else WINDOW_MAX} losses",
        number(known.decline if known else None),
        help=f"Fall of the mean loss from one window to the next, over {WINDOWS} windows",
    )


def _noise_text(noise: Noise) -> str:
    limit = f"standard error {number(noise.error)}, with the losses taken as independent"
    if not noise.is_clear:
        return (
            f"The newest {WINDOWS} windows of {noise.window} losses show neither a fall nor a rise "
            f"beyond {DECLINE_ERRORS:g} standard errors ({limit})."
        )
    ways = "fell" if noise.decline > 0 else "rose"
    factor = f", {number(abs(noise.decline) / noise.std, 2)} × the noise" if noise.std > 0 else ""
    return (
        f"The loss {ways} by {number(abs(noise.decline))} per {noise.window} losses{factor} "
        f"({limit})."
    )


def _charts(
    run: RunDetail, names: Sequence[str], findings: Sequence[Finding], best: Mapping[str, Best]
) -> None:
    dropped = [d for d in run.dropped if d.stream in (Stream.SCALAR, "record")]
    first = next(iter(best.items()), None)
    marks = Marks(
        [f for f in findings if f.is_open and concerns_loss(f)],
        dropped,
        first[1].value if first else None,
        f"lowest {clean(first[0])} loss" if first else "",
        resumes(run.events),
    )
    others = Marks(dropped=dropped, resumed=marks.resumed)
    losses = [n for n in names if _is_loss(n)][:LINES_MAX]
    drawn = [(Chart("loss", "Loss", marks, height=320, wide=True), losses)]
    terms = _terms(run, names)
    if terms:
        drawn.append((Chart("terms", "Terms of the loss", others), [*terms]))
    drawn += [
        (Chart(what, f"Entries of the {what}s", others), parts)
        for what in RANGES
        if (parts := [f"{what}_{part}" for part in PARTS if f"{what}_{part}" in names])
    ]
    if Scalar.SUPERVISED_SHARE in names:
        chart = Chart("share", "Share of the targets that count", others, log_allowed=False)
        drawn.append((chart, [Scalar.SUPERVISED_SHARE]))
    scalars = Scalars(run, [name for _, names in drawn for name in names])
    plans = [_plan(scalars, chart, names, terms) for chart, names in drawn]
    board(f"loss-{run.id}", plans, run.step)


def _plan(
    scalars: Scalars, chart: Chart, names: Sequence[str], terms: Mapping[str, str]
) -> ChartPlan:
    def request(first: int | None, last: int | None, points: int) -> list[Line]:
        curves = scalars.curves(names, first, last, points)
        return [Line(terms.get(c.place) or _said(c), c) for c in curves]

    return ChartPlan(chart, request)


def _terms(run: RunDetail, names: Sequence[str]) -> dict[str, str]:
    """Return the scalars of the terms that the program named, or of those its graph shows.

    Scalar → what its line is called. Beside each term of the graph is what it would be for the best
    prediction that ignores the input.
    """
    prefix = f"{Scalar.LOSS_TERM}/"
    if named := [name for name in names if name.startswith(prefix)][:LINES_MAX]:
        return {name: name.removeprefix(prefix) for name in named}
    seen = [e for e in run.events if e.kind == EventKind.LOSS_KIND]
    kinds = str(seen[-1].attributes.get("terms") or "").split(",") if seen else []
    found: dict[str, str] = {}
    for i in range(LINES_MAX // 2):
        kind = kinds[i] if i < len(kinds) else f"term {i + 1}"
        lines = {
            f"{Scalar.PART_OF_LOSS}/{i}": kind,
            f"{Scalar.PART_OF_CONSTANT}/{i}": f"{kind}, constant prediction",
        }
        found |= {name: said for name, said in lines.items() if name in names}
    return found


def _said(curve: Curve) -> str:
    if curve.place == Scalar.LOSS:
        return "training"
    return (
        curve.place.partition("/")[2]
        or PARTS.get(curve.place.rpartition("_")[2])
        or words(curve.place)
    )


def _evaluations(run: RunDetail, whole: Curves, best: Mapping[str, Best]) -> None:
    """Show the lowest and the newest loss of each split beside the training loss there."""
    rows = []
    for split, low in best.items():
        last = newest(whole[f"{Scalar.LOSS}/{split}"])
        if last is None:
            continue
        gaps = (_gap(run, whole, low.first, low.value), _gap(run, whole, *last))
        cells = (_at(low.value, low.first, low.last), gaps[0], _at(last[1], last[0]), gaps[1])
        rows.append((plain(split), *cells))
    if not rows:
        return
    st.markdown("#### Gap to the training loss", anchors=False)
    st.markdown(table(("split", "lowest", "gap there", "newest", "gap now"), rows))
    st.caption(
        "Gap: the loss of the split minus the mean training loss of the "
        f"{2 * AROUND + 1} steps around the evaluation; in brackets, the quotient of the two."
    )


def _at(value: float, first: int, last: int | None = None) -> str:
    until = f" to {last:,}" if last is not None and last != first else ""
    return plain(f"{number(value)} (step {first:,}{until})")


def _gap(run: RunDetail, whole: Curves, step: int, value: float) -> str:
    training = _training_near(run, whole, step)
    if training is None:
        return "–"
    gap = value - training
    return plain(f"{number(gap)} ({number(value / training)} ×)" if training > 0 else number(gap))


def _training_near(run: RunDetail, whole: Curves, step: int) -> float | None:
    """Return the mean training loss of the steps around `step`; None if there is none."""
    if Scalar.LOSS not in whole:
        return None
    found = _curves(run, [Scalar.LOSS], max(0, step - AROUND), step + AROUND, 1)
    curve = found.get(Scalar.LOSS)
    return curve.mean[0] if curve else None


def _missing(run: RunDetail, names: Sequence[str], whole: Curves) -> None:
    """Show what was not measured, and why."""
    measured = {
        "training loss": Scalar.LOSS in whole,
        "validation loss": any(n != Scalar.LOSS for n in whole),
        "loss terms": bool(_terms(run, names)),
        "predictions": any(f"prediction_{part}" in names for part in PARTS),
        "targets": any(f"target_{part}" in names for part in PARTS),
        "supervised share": Scalar.SUPERVISED_SHARE in names,
    }
    lacking = [what for what, is_there in measured.items() if not is_there]
    if not lacking or run.step < 0:
        return
    st.markdown("#### Not measured", anchors=False)
    st.markdown(table(("what", "why"), [(what, prose(NOT_REPORTED[what])) for what in lacking]))


if __name__ == "__main__":
    guarded(show)
