"""The rules that ran on a run and found nothing: what was looked at and found healthy."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from trainvitals.api.schema import Finding, RuleName, RunDetail, Verdict
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.parts.blocks import Column, rows
from trainvitals_dashboard.parts.session import client
from trainvitals_dashboard.wording import clean, plain, words

COLUMNS = (Column("rule"), Column("code"), Column("what it finds"))


def silent_rules(run: RunDetail, findings: Sequence[Finding]) -> None:
    """Offer the list of the rules that found nothing; request it when it is opened.

    Nothing is shown before the first verdict.
    """
    if run.health is None or run.verdict is Verdict.TOO_EARLY:
        return
    with st.expander(
        "Rules that found nothing", icon=":material/check_circle:", key="silent", on_change="rerun"
    ) as opened:
        if not opened.open:
            return
        try:
            every = client().rules().value.rules
        except Problem as problem:
            st.caption(f"The list of the rules is not available: {plain(problem.text)}")
            return
        silent = without_finding(every, run, findings)
        st.caption(
            f"{len(silent)} of {len(every)} rules read this run and found nothing. A rule that "
            "could not run, because its data was not measured, is not among them."
        )
        cells = [(words(clean(r.rule)), clean(r.code), clean(r.summary)) for r in silent]
        rows("silent_rules", "Rules that found nothing", COLUMNS, cells)


def without_finding(
    every: Sequence[RuleName], run: RunDetail, findings: Sequence[Finding]
) -> list[RuleName]:
    """Return the rules that could run and have no finding, open or resolved."""
    found = {finding.code for finding in findings}
    return [r for r in every if r.code not in found and r.rule not in run.blind]
