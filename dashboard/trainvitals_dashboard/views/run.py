"""The page of one run: verdict, evidence and curves."""

from __future__ import annotations

import json
from collections.abc import Sequence

import streamlit as st

from trainvitals.api.account import overhead_note, prevented
from trainvitals.api.experiment import is_result
from trainvitals.api.schema import Completeness, Dropped, Finding, RunDetail, Verdict
from trainvitals.api.wording import percent
from trainvitals.wire import Scalar, Stream
from trainvitals_dashboard.figures.charts import Chart
from trainvitals_dashboard.figures.curves import Line, Marks, resumes, scalar_name
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.blocks import Column, code, rows
from trainvitals_dashboard.parts.board import Click, board
from trainvitals_dashboard.parts.downloads import downloads
from trainvitals_dashboard.parts.header import run_header
from trainvitals_dashboard.parts.live import Live, live_run
from trainvitals_dashboard.parts.ranges import range_control
from trainvitals_dashboard.parts.scalars import Scalars
from trainvitals_dashboard.parts.session import (
    LAYERS,
    RUN,
    client,
    guarded,
)
from trainvitals_dashboard.parts.silent_rules import silent_rules
from trainvitals_dashboard.parts.verdict import ranked, verdict_card
from trainvitals_dashboard.wording import clean, plain, steps, table, words

LIVE_S = 2
# Title, scalar and height. A scalar may have groups or splits (learning_rate/0, loss/validation).
CHARTS = (
    ("Loss", str(Scalar.LOSS), 300),
    ("Gradient norm", str(Scalar.GRADIENT_NORM), 220),
    ("Learning rate", str(Scalar.LEARNING_RATE), 220),
)
OWN_COST = (
    "CPU time of trainvitals / training time. By default, 0.25 s + 2 % of the training time are "
    "allowed: a run of a few seconds shows a larger share. So does a run with steps of about a "
    "millisecond, because its loss, learning rate and gradient norm are recorded at every step"
)
LINES_MAX = 6
LOGGED_MAX = 24
SYSTEM = {
    "system/process_cores": "CPU of the process (cores)",
    "system/cpu_share": "CPU of the machine (share, 0 to 1)",
    "system/process_memory_gib": "Memory of the process (GiB)",
    "system/available_memory_gib": "Available memory of the machine (GiB)",
}
"""Titles of what a process uses of its machine; a GPU's have its number."""
AROUND = 50
"""Steps before and after a clicked step that the page of the layers shows."""


def show() -> None:
    """Show the run in the URL; refresh it while it runs and the range has no fixed end."""
    live_run(_page, LIVE_S)


def _page(live: Live) -> None:
    run = live.answer.value
    asked = client().findings(run)
    findings = asked.value.findings
    run_header(run, page=RUN)
    live.progress()
    live.banner(asked)
    if run.notes:
        st.text(run.notes)  # not Markdown: it could load images from other machines
    verdict_card(run, findings)
    ranked(run, findings)
    silent_rules(run, findings)
    if not is_result(run):
        _over_steps(live, findings)
    _about(run)


def _over_steps(live: Live, findings: Sequence[Finding]) -> None:
    run = live.answer.value
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("#### Curves", width="content", anchors=False)
        range_control(run.step)
        downloads(run, _shown(run), _plans(run, findings))
        if live.every_s is not None:
            st.caption("updates automatically", width="content")

    live.refreshed(lambda now: _curves(now.answer.value, findings))
    _scalars_of(live, "log/", "Logged scalars")
    _scalars_of(live, "system/", "System")


def _shown(run: RunDetail) -> list[str]:
    """Return the scalars of the charts of the page."""
    wanted = tuple(scalar for _, scalar, _ in CHARTS)
    return [n for n in _scalars(run) if n in wanted or n.startswith(tuple(f"{w}/" for w in wanted))]


def _curves(run: RunDetail, findings: Sequence[Finding]) -> None:
    plans = _plans(run, findings)
    if not plans:
        st.caption("No loss, gradient norm or learning rate was recorded yet.")
        return
    _to_layers(run, board(f"curves-{run.id}", plans, run.step))


def _plans(run: RunDetail, findings: Sequence[Finding]) -> list[ChartPlan]:
    """Return the charts of the training; a report that is downloaded has them, too."""
    names = _scalars(run)
    open_findings = [f for f in findings if f.is_open and f.severity != "info"]
    marks = Marks(open_findings, _lost(run), resumed=resumes(run.events))
    of_chart = {
        scalar: [n for n in names if n == scalar or n.startswith(f"{scalar}/")][:LINES_MAX]
        for _, scalar, _ in CHARTS
    }
    scalars = Scalars(run, [name for places in of_chart.values() for name in places])
    plans = []
    for title, scalar, height in CHARTS:
        chart = Chart(
            f"curve-{scalar}",
            title,
            marks,
            height=height,
            wide=scalar == Scalar.LOSS,
            # The shape of a schedule is only recognisable on a linear axis.
            log_allowed=scalar != Scalar.LEARNING_RATE,
            clicks=True,
        )
        if places := of_chart[scalar]:
            plans.append(_plan(scalars, chart, places))
    return plans


def _scalars_of(live: Live, prefix: str, title: str) -> None:
    """Show the scalars whose names begin with `prefix`, in a section that is closed at first."""
    run = live.answer.value
    logged = [name for name in _scalars(run) if name.startswith(prefix)][:LOGGED_MAX]
    if not logged:
        return

    def draw(now: Live) -> None:
        run = now.answer.value
        marks = Marks(dropped=_lost(run), resumed=resumes(run.events))
        zero = prefix == "system/"
        scalars = Scalars(run, logged)
        plans = [
            _plan(scalars, Chart(name, _title(name, prefix), marks, 200, from_zero=zero), [name])
            for name in logged
        ]
        board(f"{prefix}{run.id}", plans, run.step)

    with st.expander(f"{title} ({len(logged)})", on_change="rerun") as opened:
        if opened.open:
            live.refreshed(draw)


def _title(name: str, prefix: str) -> str:
    short = name.removeprefix(prefix)
    if prefix != "system/" or not short.startswith("gpu"):
        return SYSTEM.get(name, short)
    gpu, _, rest = short.partition("_")
    what = {"share": "busy (share, 0 to 1)", "memory_gib": "memory in use (GiB)"}.get(rest, rest)
    return f"GPU {gpu.removeprefix('gpu')} {what}"


def _scalars(run: RunDetail) -> list[str]:
    layout = client().layout(run).value.of(Stream.SCALAR)
    return [place.name for place in layout.places] if layout else []


def _lost(run: RunDetail) -> list[Dropped]:
    return [d for d in run.dropped if d.stream in (Stream.SCALAR, "record")]


def _to_layers(run: RunDetail, click: Click | None) -> None:
    """Show a link to the layers around the step that was clicked last."""
    # The event is there in one run of the script only, and a live page runs again every 2 s.
    kept = f"clicked-step-{run.id}"
    if click is not None:
        st.session_state[kept] = click.step
    if (step := st.session_state.get(kept)) is None:
        return
    st.page_link(
        LAYERS,
        label=f"Layers around step {step:,}",
        icon=":material/layers:",
        query_params={
            "run": run.id,
            "from_step": str(max(0, step - AROUND)),
            "to_step": str(step + AROUND),
        },
    )


def _plan(scalars: Scalars, chart: Chart, places: Sequence[str]) -> ChartPlan:
    def request(first: int | None, last: int | None, points: int) -> list[Line]:
        curves = scalars.curves(places, first, last, points)
        return [Line(scalar_name(curve.place), curve) for curve in curves]

    return ChartPlan(chart, request)


def _about(run: RunDetail) -> None:
    st.markdown("#### About this run", anchors=False)
    kept_out = sum(d.records for d in run.dropped)
    with st.container(horizontal=True, gap="large"):
        note = overhead_note(run.events)
        st.metric("Own cost", percent(run.overhead), help=f"{OWN_COST}. {clean(note)}")
        if (kept := prevented(run.events)) is not None:
            when = f"first in step {kept.first_step:,}, last in step {kept.last_step:,}"
            st.metric("Prevented updates", f"{kept.updates:,}", help=f"By the guard, {when}")
        judged = run.verdict not in (Verdict.BLIND, Verdict.TOO_EARLY)
        health = percent(run.health) if judged else "–"
        st.metric("Health", health, help="100 %: no findings. –: not enough data")
        st.metric("Lost records", f"{kept_out:,}", help="Records that could not be delivered")
        st.metric("Complete", _complete(run.completeness), help=_complete_help(run.completeness))
        st.metric("Not monitored", f"{len(run.not_watched):,}", help="Tensors and modules")
    if run.dropped:
        with st.expander(f"Missing records ({len(run.dropped)})"):
            missing = [
                (
                    f"{d.first_step:,} to {d.last_step:,}",
                    plain(d.stream),
                    plain(words(d.reason)),
                    f"{d.records:,}",
                )
                for d in run.dropped[:100]
            ]
            st.markdown(table(("steps", "stream", "reason", "records"), missing))
    if run.not_watched:
        with st.expander(f"Unmonitored tensors and modules ({len(run.not_watched)})"):
            reasons = [(clean(n), clean(r)) for n, r in run.not_watched.items()]
            rows("not_watched", "Unmonitored", [Column("name"), Column("reason")], reasons)
    if run.events:
        with st.expander(f"Events ({len(run.events)})"):
            columns = [Column("step"), Column("what"), Column("text")]
            happened = [(f"{e.step:,}", clean(e.kind), clean(e.text)) for e in run.events]
            rows("events", "Events", columns, happened)
    _where_from(run)


def _complete(completeness: Completeness) -> str:
    if completeness.complete is None:
        return "–"
    if completeness.complete:
        return "yes"
    known = completeness.missing
    return "no" if known is None else f"{known + completeness.dropped:,} missing"


def _complete_help(completeness: Completeness) -> str:
    stored = "–" if completeness.stored is None else f"{completeness.stored:,}"
    about = f"Whether the collector has all records of the run. Stored: {stored}."
    return f"{about} {plain(completeness.reason)}".strip()


def _where_from(run: RunDetail) -> None:
    with st.expander("Run metadata"):
        meta = run.metadata
        facts = [
            ("run", run.id),
            ("project", run.project),
            ("host", run.host),
            ("process", str(meta.pid) if meta.pid else ""),
            ("git commit", meta.git_commit),
            ("command", " ".join(meta.argv)),
            ("versions", ", ".join(f"{n} {v}" for n, v in meta.versions.items())),
            ("steps", steps(run.finished_step + 1)),
            *((words(name), str(fact)) for name, fact in meta.facts.items()),
        ]
        known = [(clean(what), clean(value)) for what, value in facts if value]
        rows("metadata", "Run metadata", [Column("what"), Column("value")], known)
        if run.config:
            st.caption("Configuration")
            code("configuration", json.dumps(run.config, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    guarded(show)
