"""The state before the training: initialisers, propagation through depth, the first loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from trainvitals.api.schema import Checkup, Finding, Initialiser, Layouts, Place, RunDetail, Stage
from trainvitals.api.wording import initialiser_text, number, percent
from trainvitals.wire import Stream
from trainvitals_dashboard.figures.charts import Chart, over_layers
from trainvitals_dashboard.parts.blocks import Column, rows
from trainvitals_dashboard.parts.board import still_board
from trainvitals_dashboard.parts.header import run_header, where_and_when
from trainvitals_dashboard.parts.session import (
    INITIAL,
    age_banner,
    client,
    guarded,
    run_or_hint,
)
from trainvitals_dashboard.wording import (
    SEVERITY_ICON,
    at_place,
    clean,
    plain,
    prose,
    words,
)

LAYERS_MIN = 2
NAMES_SHOWN = 4
GROUP_COLUMNS = (Column("initialiser"), Column("tensors", "number"), Column("names"))
TENSOR_COLUMNS = (
    Column("tensor"),
    Column("shape"),
    Column("into"),
    Column("initialiser"),
    Column("confidence", "number"),
)


def show() -> None:
    """Show the initial state of the run that the URL names."""
    if not (run_id := run_or_hint()):
        return
    answer = client().run(run_id)
    run = answer.value
    initial = client().initial(run)
    layouts = client().layout(run).value
    findings = client().findings(run).value.findings
    run_header(run, page=INITIAL)
    st.caption(where_and_when(run))
    age_banner(answer, initial)
    _flagged(findings)
    _numbers(initial.value)
    _propagation(run, initial.value)
    _initialisers(initial.value.initialisers, layouts)


def _flagged(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.stage is Stage.INITIALISATION and finding.is_open:
            st.markdown(
                f"{SEVERITY_ICON.get(finding.severity, '')} **{plain(finding.code)} "
                f"{plain(words(finding.rule))}** {at_place(finding.where)}: "
                f"{prose(finding.summary)}"
            )


def _numbers(initial: Checkup) -> None:
    loss = initial.initial_loss
    with st.container(horizontal=True, gap="medium"):
        st.metric(
            "First loss",
            "–" if loss is None else number(loss.seen),
            help="The loss before the first update",
        )
        expected = loss is not None and loss.expected is not None
        st.metric(
            "Expected",
            number(loss.expected) if loss is not None and loss.expected is not None else "–",
            help="The loss of a prediction that ignores the input"
            + (f": {plain(loss.formula)}" if expected and loss is not None else ""),
        )
        st.metric(
            "Signal per layer",
            "–" if initial.chi is None else f"χ = {number(initial.chi)}",
            help="Factor of S² per layer with a weight. 1 keeps the signal",
        )
        st.metric(
            "Gradient per layer",
            "–" if initial.gradient_chi is None else f"χ = {number(initial.gradient_chi)}",
            help="Factor of the squared gradient per layer, from the last to the first",
        )
        st.metric(
            "Signal changes 1,000 ×",
            "–" if initial.depth_of_failure is None else f"{initial.depth_of_failure} layers",
            help="Number of layers after which S is a thousand times smaller or larger",
        )


def _propagation(run: RunDetail, initial: Checkup) -> None:
    st.markdown("#### Through the depth", anchors=False)
    layers = initial.propagation
    if len(layers) < LAYERS_MIN:
        st.caption("The first steps of this run were not measured.")
        return
    signal = {
        "S, across samples": {p.layer: p.S for p in layers},
        "M, across units": {p.layer: p.M for p in layers if p.M is not None},
    }
    gradient = {p.layer: p.gradient_rms for p in layers if p.gradient_rms is not None}
    shown = [over_layers(Chart("signal", "Signal: standard deviation", height=300), signal)]
    if len(gradient) >= LAYERS_MIN:
        chart = Chart("gradient", "Gradient of each layer's weight: RMS", height=300)
        shown.append(over_layers(chart, {"gradient RMS": gradient}))
    still_board(f"depth-{run.id}", shown)
    if len(gradient) < LAYERS_MIN:
        st.caption("The gradient was not measured in the first steps.")
    st.caption("First layer at the left.")


def _initialisers(found: Mapping[str, Initialiser], layouts: Layouts) -> None:
    st.markdown("#### Initialisers", anchors=False)
    if not found:
        st.caption("They were not identified: the first step was not measured in full.")
        return
    groups: dict[str, list[str]] = {}
    for name, one in found.items():
        groups.setdefault(initialiser_text(one), []).append(name)
    grouped = [
        (
            clean(text),
            f"{len(names):,}",
            ", ".join(clean(n) for n in names[:NAMES_SHOWN])
            + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""),
        )
        for text, names in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    rows("initialisers", "Initialisers", GROUP_COLUMNS, grouped)
    layout = layouts.of(Stream.WEIGHT)
    places = {p.name: p for p in layout.places} if layout else {}
    with st.expander(f"Each tensor ({len(found)})"):
        each = [_row(n, i, places.get(n)) for n, i in found.items()]
        rows("tensors", "Initialiser of each tensor", TENSOR_COLUMNS, each)


def _row(name: str, initialiser: Initialiser, place: Place | None) -> tuple[str, ...]:
    return (
        clean(name),
        " × ".join(map(str, place.shape)) if place else "",
        clean(place.nonlinearity) if place else "",
        clean(initialiser_text(initialiser)),
        percent(initialiser.confidence),
    )


if __name__ == "__main__":
    guarded(show)
