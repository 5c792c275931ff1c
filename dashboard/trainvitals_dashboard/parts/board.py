"""The chart board: a component without an iframe that holds the charts of a place of a page.

Comes in: charts, and functions that request their curves for a range of steps.
Goes out: messages to the browser (figures/updates.py); from it the range of steps that a visitor
          chose, written into the URL, and clicks.
Promise:  the zoom and the cursor are kept over live updates.
Start at `board`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2 import component
from streamlit.components.v2.component_manager import BidiComponentManager
from streamlit.components.v2.get_bidi_component_manager import get_bidi_component_manager
from streamlit.components.v2.manifest_scanner import ComponentConfig, ComponentManifest

from trainvitals_dashboard.figures import charts
from trainvitals_dashboard.figures.charts import Part
from trainvitals_dashboard.figures.heat import Ask, HeatRows, Opened, heat_message
from trainvitals_dashboard.figures.updates import ChartPlan, compact, message_of
from trainvitals_dashboard.parts.ranges import set_window, window

NAME = "trainvitals.board"
PACKAGE = Path(__file__).parents[1]
BUNDLE = PACKAGE / "assets" / "board.js"
SENT = "sent_to_board:"
"""Prefix of the keys of what the browser has, in the state of the session."""
REDRAWN = "page_drawn_again"
"""Key in the state of the session: at the next run of the page, the browser has its charts."""
CHOSEN = "range_chosen"
"""Key in the state of the session: the visitor has chosen the range of this run of the script."""


@dataclass(frozen=True)
class Click:
    """A point that a visitor selected."""

    chart: str
    place: str
    step: int


def board(key: str, plans: Sequence[ChartPlan], newest: int, *, tools: bool = True) -> Click | None:
    """Show charts over the steps 0 to `newest`, and return a click on a point.

    `tools`: show the hint about keys and the choice of smoothing, once on a page.

    A new range of steps is written into the URL; then these charts are sent, and the page runs
    again.
    """
    state = SENT + key
    sent = message_of(plans, newest, window(), st.session_state.get(state))
    st.session_state[state] = sent
    return _taken(mount(key, {**compact(sent.message), "tools": tools}))


def heat_board(key: str, rows: HeatRows, ask: Ask, newest: int, *, here: str = "") -> Click | None:
    """Show a heat-map over the steps 0 to `newest`, and return a click on a tensor.

    `here` is the selected tensor. The browser requests the cells of the rows that are visible, and
    the URL has the open groups and the filter.
    """
    state, seen = SENT + key, f"visible:{key}"
    sent = heat_message(
        rows,
        ask,
        newest=newest,
        shown=window(),
        visible=st.session_state.get(seen, ()),
        here=here,
        sent=st.session_state.get(state),
        opened=Opened(st.query_params.get("open"), st.query_params.get("filter", "")),
    )
    st.session_state[state] = sent

    def asked() -> None:
        # A callback: the rows are known before the script runs.
        event = st.session_state[key].rows
        st.session_state[seen] = [str(row) for row in event["rows"]] if event else []
        if event:
            _into_url({"open": event["open"], "filter": event["filter"]})

    return _taken(mount(key, {**sent.message, "tools": True}, on_rows=asked))


def _into_url(state: Mapping[str, str | None]) -> None:
    """Write what a visitor has opened into the URL; None and "" remove a parameter."""
    for name, value in state.items():
        if value and st.query_params.get(name) != value:
            st.query_params[name] = value
        elif not value and name in st.query_params:
            del st.query_params[name]


def _taken(event: Any) -> Click | None:
    """Draw the rest of the page if the visitor chose a range, and return the click."""
    if st.session_state.pop(CHOSEN, False):
        st.session_state[REDRAWN] = True
        st.rerun()
    click = event.click
    return Click(click["chart"], click["series"], int(click["step"])) if click else None


def _take_range(key: str) -> None:
    """Write a range that the visitor chose into the URL.

    A callback: the charts of the same run of the script have the new range already.
    """
    given = st.session_state[key].range
    shown = window()
    if given is not None and (chosen := _steps(given)) != (shown.first, shown.last):
        set_window(*chosen)
        st.session_state[CHOSEN] = True


def still_board(key: str, parts: Sequence[Part]) -> None:
    """Show charts that do not grow, such as those over layers."""
    mount(
        key,
        {
            "seq": f"still {hash(repr(parts))}",
            "base": None,
            "range": None,
            "full": None,
            "tools": False,
            "colours": charts.colours(),
            "charts": list(parts),
        },
    )


def forget_boards() -> None:
    """Send all points again at the next run: the page was opened or changed."""
    for key in [k for k in st.session_state if str(k).startswith(SENT)]:
        del st.session_state[key]


def page_drawn() -> None:
    """Send all points again, unless the browser has the charts of this page already."""
    if not st.session_state.pop(REDRAWN, False):
        forget_boards()


def _ignore() -> None:
    """Streamlit reports only events that have a callback."""


def mount(key: str, message: Part, on_rows: Callable[[], None] = _ignore) -> Any:
    """Show the component with a message, and return its events; without the bundle, a warning."""
    if not BUNDLE.exists():
        st.warning(
            "**The charts are not available:** this installation was made without the chart board "
            "(npm was not reachable). Install trainvitals again, or run "
            "`python dashboard/board/build.py` in a checkout.",
            icon=":material/bar_chart_off:",
        )
        return _Nothing()
    return _renderer(get_bidi_component_manager())(
        key=key,
        data=message,
        on_range_change=lambda: _take_range(key),
        on_click_change=_ignore,
        on_rows_change=on_rows,
        on_open_change=_ignore,
        on_sort_change=_ignore,
        on_more_change=_ignore,
        on_resync_change=lambda: st.session_state.pop(SENT + key, None),
    )


@dataclass(frozen=True)
class _Nothing:
    range: None = None
    click: None = None
    open: None = None
    sort: None = None
    more: None = None


@lru_cache(maxsize=8)
def _renderer(manager: BidiComponentManager) -> Callable[..., Any]:
    """Register the folder of the bundle and return the function that shows the component.

    Streamlit finds such folders by the name of the distribution, `trainvitals`, whose package of
    that name is not the dashboard. Registered here, the folder is right in a checkout, too.
    """
    manifest = ComponentManifest("trainvitals", "", [ComponentConfig("board", "assets")])
    manager.register_from_manifest(manifest, PACKAGE)
    return component(NAME, js=BUNDLE.name)


def _steps(value: Mapping[str, Any]) -> tuple[int | None, int | None]:
    def step(name: str) -> int | None:
        given = value.get(name)
        return None if given is None else max(0, int(given))

    return step("first"), step("last")
