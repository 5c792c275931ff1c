"""The range of steps that is shown. The URL contains it, so that links show the same range."""

from __future__ import annotations

import streamlit as st

from trainvitals_dashboard.figures.curves import StepRange

LAST_STEPS = (100, 1_000, 10_000)


def window() -> StepRange:
    """Return the range of steps in the URL."""
    first, last = _step("from_step"), _step("to_step")
    if first is not None and last is not None and first > last:
        first, last = last, first
    return StepRange(first, last)


def follows() -> bool:
    """Return whether the end of the range moves with the run."""
    return _step("to_step") is None


def set_window(first: int | None, last: int | None) -> None:
    """Write a range into the URL. It takes effect at the next rerun of the page."""
    chosen = {"from_step": first, "to_step": last}
    # Not from_dict: it would also write the parameters of widgets, which Streamlit refuses. One
    # update for both ends: two would create an intermediate URL.
    given = {n: str(max(0, v)) for n, v in chosen.items() if v is not None}
    if given:
        st.query_params.update(given)
    for name in chosen.keys() - given.keys():
        if name in st.query_params:
            del st.query_params[name]


def range_control(newest: int) -> None:
    """Show the range, and inputs that change it without a mouse."""
    shown = window()
    with st.popover(_label(shown), icon=":material/date_range:", key="steps"):
        with st.form("range", border=False):
            first = st.number_input(
                "From step", min_value=0, value=shown.first or 0, step=1, format="%d"
            )
            last = st.number_input(
                "To step",
                min_value=0,
                value=max(0, newest) if shown.last is None else shown.last,
                step=1,
                format="%d",
            )
            if st.form_submit_button("Apply", type="primary"):
                set_window(int(first), int(last))
                st.rerun()
        with st.container(horizontal=True, gap="small"):
            for count in LAST_STEPS:
                if count < newest and st.button(f"Last {count:,}"):
                    set_window(newest - count + 1, newest)
                    st.rerun()
    if (shown.first is not None or shown.last is not None) and st.button(
        "All steps", icon=":material/zoom_out_map:"
    ):
        set_window(None, None)
        st.rerun()


def _label(shown: StepRange) -> str:
    if shown.first is None and shown.last is None:
        return "All steps"
    last = "latest" if shown.last is None else f"{shown.last:,}"
    return f"Steps {shown.first or 0:,} to {last}"


def _step(name: str) -> int | None:
    given = st.query_params.get(name, "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 16 else None
