"""Show the page of a run, and refresh parts of it while the run goes on.

Comes in: the run in the URL.
Goes out: `Live`, which draws a part of the page again every few seconds.
Promise:  a refresh sends only the parts that are marked as refreshed. The rest of the page is drawn
          again when the state, the verdict or a finding changes.
Start at `live_run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from trainvitals.api.schema import Finding, RunDetail
from trainvitals_dashboard.client import Answer, Problem
from trainvitals_dashboard.parts.bin import deleted_here
from trainvitals_dashboard.parts.board import REDRAWN, page_drawn
from trainvitals_dashboard.parts.header import where_and_when
from trainvitals_dashboard.parts.ranges import follows
from trainvitals_dashboard.parts.session import age_banner, client, explain, run_or_hint

NUMBERS_S = 15.0
"""A finding of which only the numbers changed is drawn again after this time."""


@dataclass(frozen=True)
class Live:
    """A run, and whether its page is refreshed."""

    answer: Answer[RunDetail]
    every_s: float | None
    """Seconds between two refreshes; None for a page that does not change."""
    drawn: tuple[Any, ...]
    """What the page shows of the verdict, and the same with its numbers."""
    at: float
    """Time at which the page was drawn, from time.monotonic."""

    def banner(self, *others: Answer[object]) -> None:
        """Warn of answers that are not current. On a refreshed page, `progress` does so."""
        if self.every_s is None:
            age_banner(self.answer, *others)

    def progress(self) -> None:
        """Show the progress of the run, or the age of the data; refresh the line.

        The line is a fragment of its own. A fragment that writes to another place of the page fails
        (StreamlitInvalidLayoutContextError) where an interrupted run of the page did not reach it.
        """
        fresh = [self.answer]

        @st.fragment(run_every=self.every_s)
        def line() -> None:
            try:
                answer = fresh.pop() if fresh else client().run(self.answer.value.id)
            except Problem:
                return  # the refreshed parts of the page explain it
            if self.every_s is not None and answer.problem is not None:
                age_banner(answer)
            else:
                st.caption(where_and_when(answer.value))

        line()

    def refreshed(self, part: Callable[[Live], object]) -> None:
        """Call `part` now, and again at each refresh with the newest state of the run.

        `part` must not write outside its own container. A failed request is explained in place of
        the part.
        """
        fresh = [self]

        @st.fragment(run_every=self.every_s)
        def drawn_again() -> None:
            try:
                part(fresh.pop() if fresh else self._newest())
            except Problem as problem:
                explain(problem)

        drawn_again()

    def _newest(self) -> Live:
        if self.every_s is None:
            return self
        answer = client().run(self.answer.value.id)
        shape, numbers = _shown(answer.value)
        waited = time.monotonic() - self.at
        if shape != self.drawn[0] or (numbers != self.drawn[1] and waited > NUMBERS_S):
            # The charts that the browser has are kept, but not if a new attempt has replaced steps.
            st.session_state[REDRAWN] = answer.value.attempt == self.answer.value.attempt
            st.rerun()
        return Live(answer, self.every_s, self.drawn, self.at)


def live_run(show: Callable[[Live], None], every_s: float) -> None:
    """Call `show` with the run in the URL; its refreshed parts are drawn every `every_s` seconds.

    Nothing is refreshed if the run has ended or the range of steps has a fixed end.
    """
    if not (run_id := run_or_hint()):
        return
    page_drawn()
    try:
        answer = client().run(run_id)
    except Problem as problem:
        if problem.reason == "unknown_run" and deleted_here(run_id):
            return
        raise
    live = answer.value.state == "running" and follows()
    drawn = _shown(answer.value) if live else ()
    show(Live(answer, every_s if live else None, drawn, time.monotonic()))


def _shown(run: RunDetail) -> tuple[Any, Any]:
    """Return what a page shows besides its refreshed parts: without and with the numbers."""
    findings = client().findings(run).value.findings
    edits = (run.name, run.tags, run.notes, run.archived)
    shape = (run.state, run.verdict, run.attempt, edits, bool(run.step >= 0))
    return (shape, tuple(map(_kind, findings))), tuple(findings)


def _kind(finding: Finding) -> tuple[Any, ...]:
    return (
        finding.code,
        finding.where,
        finding.since_step,
        finding.is_open,
        finding.severity,
        finding.explained_by,
    )
