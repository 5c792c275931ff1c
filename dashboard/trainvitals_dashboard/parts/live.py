"""Show the page of a run, and refresh it while the run goes on."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from trainvitals.api.schema import RunDetail
from trainvitals_dashboard.client import Answer, Problem
from trainvitals_dashboard.parts.board import forget_boards
from trainvitals_dashboard.parts.ranges import follows
from trainvitals_dashboard.parts.session import client, explain, run_or_hint


def live_run(show: Callable[[Answer[RunDetail]], None], every_s: float) -> None:
    """Call `show` with the run in the URL, every `every_s` seconds while it runs.

    The page is not refreshed if the range of steps has a fixed end. A failed request is explained
    in place of the page.
    """
    if not (run_id := run_or_hint()):
        return
    # This code runs when the page is opened or changed, and not at a refresh.
    forget_boards()
    live = client().run(run_id).value.state == "running" and follows()

    @st.fragment(run_every=every_s if live else None)
    def page() -> None:
        try:
            answer = client().run(run_id)
            if live and answer.value.state != "running":
                st.rerun()  # rerun the whole page without the timer
            show(answer)
        except Problem as problem:
            explain(problem)

    page()
