"""Verdicts and findings: the fault, its place and first step, the evidence and the fix."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from trainvitals.api.experiment import is_result
from trainvitals.api.schema import Finding, RulePage, Run, RunDetail, Verdict
from trainvitals.api.wording import number, percent, row
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.parts.blocks import code
from trainvitals_dashboard.parts.proof import proof_chart
from trainvitals_dashboard.parts.session import EXPERIMENTS, LAYERS, client
from trainvitals_dashboard.wording import (
    SEVERITY_COLOUR,
    SEVERITY_ICON,
    VERDICT_WORDS,
    at_place,
    bulleted,
    clean,
    literal,
    plain,
    prose,
    shortened,
    steps,
    table,
    words,
)

SUMMARY_MAX = 240
"""Characters of a finding's summary in the line that opens it; the longest ones have about 200."""


def verdict_badge(run: Run) -> None:
    """Show the run's verdict as icon, word and colour."""
    kind = verdict_of(run)
    st.badge(
        VERDICT_WORDS.get(kind, kind),
        icon=SEVERITY_ICON.get(kind),
        color=SEVERITY_COLOUR.get(kind, "gray"),  # type: ignore[arg-type]  # a fixed table's words
    )


def tab_title(run: Run) -> str:
    """Return the title of the browser tab: verdict, state and run, as plain text."""
    kind = verdict_of(run)
    name = shortened(run.name or run.id, 48)
    # A failed run has one word for both.
    said = dict.fromkeys(clean(word) for word in (VERDICT_WORDS.get(kind, kind), run.state))
    return f"{' · '.join(said)} · {name} – trainvitals"


def verdict_of(run: Run) -> str:
    """Return the run's verdict; "unknown" before the first diagnosis of a running run.

    "experiment" for the result of an experiment, which has no steps to diagnose.
    """
    if is_result(run):
        return "experiment"
    undiagnosed = run.health is None and run.verdict is not Verdict.FAILED
    return "unknown" if undiagnosed else str(run.verdict)


def verdict_line(run: Run) -> str:
    """Return the verdict in one Markdown sentence."""
    text = verdict_text(run)
    # Only these contain text of the user.
    return prose(text) if run.headline is not None or run.verdict is Verdict.FAILED else text


def verdict_text(run: Run) -> str:
    """Return the verdict in one sentence. Not escaped."""
    failed = f"{_failure(run)} " if run.verdict is Verdict.FAILED else ""
    if run.headline is not None:
        return f"{failed}{run.headline.summary}"
    if is_result(run):
        return "The result of an experiment; the page Experiments shows it."
    if failed:
        return failed.strip()
    if run.step < 0:
        return "No optimizer step was recorded yet."
    if run.health is None:
        return "The first diagnosis is not available yet."
    seen = steps(run.step + 1)
    if run.verdict is Verdict.BLIND:
        count = len(run.blind) if isinstance(run, RunDetail) else 0
        rules = f"{count} rule{'' if count == 1 else 's'}" if count else "Some rules"
        return f"{rules} could not run in {seen}: the data they need was not measured."
    if run.verdict is Verdict.TOO_EARLY:
        return f"No findings in {seen}; more steps are needed for a verdict."
    notes = {0: "", 1: "; one note"}.get(run.findings.info, f"; {run.findings.info} notes")
    return f"No errors or warnings in {seen}{notes}."


def _failure(run: Run) -> str:
    """Return the first line of the error: CUDA exceptions can be several pages long."""
    first = next((line.strip() for line in run.error.splitlines() if line.strip()), "")
    return f"Failed: {first.rstrip('.')}." if first else "Failed; no reason was given."


def _failure_text(run: Run) -> None:
    """Show the complete error if it has more than one line."""
    if len(run.error.strip().splitlines()) > 1:
        code("failure", run.error.strip())


def verdict_card(run: RunDetail, findings: Sequence[Finding]) -> None:
    """Show the failure and the headline; without a headline, show the verdict in one sentence."""
    headline = next((f for f in findings if f.is_alarm and not f.explained_by), None)
    with st.container(border=True, key="verdict"):
        if headline is None:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                verdict_badge(run)
                st.markdown(f"**{verdict_line(run)}**", width="content")
                if is_result(run):
                    st.page_link(
                        EXPERIMENTS,
                        label="Show the result",
                        icon=":material/science:",
                        query_params={"run": run.id},
                    )
            resolved = sum(not f.is_open for f in findings)
            if resolved:
                st.caption(f"{resolved} earlier finding{'s' * (resolved > 1)} resolved; see below.")
            _failure_text(run)
            _blind(run)
            return
        if run.verdict is Verdict.FAILED:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                verdict_badge(run)
                st.markdown(f"**{prose(_failure(run))}**", width="content")
            _failure_text(run)
        _facts(headline)
        st.markdown(f"### {prose(headline.summary)}", anchors=False)
        finding_body(run, headline, findings)
        _blind(run)


def _blind(run: RunDetail) -> None:
    """Show which rules could not run, and why."""
    reasons: dict[str, list[str]] = {}
    for rule, reason in run.blind.items():
        reasons.setdefault(reason, []).append(words(rule))
    for reason, rules in reasons.items():
        st.markdown(f"{prose(reason[:1].upper() + reason[1:].rstrip('.'))}.")
        st.caption(f"Rules that could not run: {plain(', '.join(rules))}.")


def ranked(run: RunDetail, findings: Sequence[Finding]) -> None:
    """Show all other findings; each cause is followed by the findings that it explains."""
    headline = next((f for f in findings if f.is_alarm and not f.explained_by), None)
    others = [f for f in in_chains(findings) if f is not headline]
    if not others:
        return
    st.markdown(f"#### {'Other findings' if headline else 'Findings'}", anchors=False)
    for finding in others:
        finding_expander(run, finding, findings)


def finding_expander(run: RunDetail, finding: Finding, findings: Sequence[Finding]) -> None:
    """Show a finding as a line that opens; `findings` are all findings of the run."""
    arrow = "↳ " if finding.explained_by and finding.is_open else ""
    state = "" if finding.is_open else " — resolved"
    label = (
        f"{arrow}**{plain(finding.code)} {plain(words(finding.rule))}**{state}: "
        f"{plain(shortened(finding.summary, SUMMARY_MAX))}"
    )
    icon = SEVERITY_ICON.get(finding.severity) if finding.is_open else ":material/done_all:"
    key = f"finding-{finding.code}-{finding.where}-{finding.since_step}"
    with st.expander(label, icon=icon, key=key, on_change="rerun") as opened:
        # A closed finding sends no requests to the collector.
        if opened.open:
            _facts(finding)
            st.markdown(prose(finding.summary))
            finding_body(run, finding, findings)


def in_chains(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings in order of rank, with each open effect directly after its cause."""
    effects: dict[str, list[Finding]] = {}
    codes = {f.code for f in findings if f.is_open}
    for finding in findings:
        if finding.is_open and finding.explained_by in codes - {finding.code}:
            effects.setdefault(finding.explained_by, []).append(finding)
    placed: list[Finding] = []

    def place(finding: Finding) -> None:
        if any(finding is other for other in placed):
            return
        placed.append(finding)
        if finding.is_open:
            for effect in effects.pop(finding.code, []):
                place(effect)

    moved = {id(f) for group in effects.values() for f in group}
    for finding in findings:
        if id(finding) not in moved:
            place(finding)
    # Findings that explain each other in a cycle have no root cause; append them here.
    for finding in findings:
        place(finding)
    return placed


def chain_of(finding: Finding, findings: Sequence[Finding]) -> list[Finding]:
    """Return the chain of causes from the root cause to the finding itself."""
    chain = [finding]
    while chain[0].explained_by:
        cause = next((f for f in findings if f.code == chain[0].explained_by and f.is_open), None)
        if cause is None or cause in chain:
            break
        chain.insert(0, cause)
    return chain


def finding_body(run: RunDetail, finding: Finding, findings: Sequence[Finding]) -> None:
    """Show the evidence, the curve, the reasons, the fix and the page of the rule."""
    chain = chain_of(finding, findings)
    if len(chain) > 1:
        links = " → ".join(f"**{plain(f.code)}** {plain(words(f.rule))}" for f in chain)
        st.caption(f"Explained by: {links}")
    numbers, picture = st.columns([2, 3], gap="medium")
    with numbers:
        if finding.evidence:
            st.markdown(_evidence_table(finding))
        if finding.where:
            st.page_link(
                LAYERS,
                label="Show this layer",
                icon=":material/layers:",
                query_params=_layer_link(run, finding),
            )
    with picture:
        proof_chart(run, finding)
    if finding.why:
        st.markdown(f"**Why it matters.** {prose(finding.why)}")
    if finding.advice:
        st.markdown(f"**What to do**\n\n{bulleted(finding.advice)}")
    if finding.fix:
        code(f"fix-{finding.code}-{finding.where}-{finding.since_step}", finding.fix)
    if finding.refuted_by:
        st.caption(f"**What would prove this wrong:** {prose(finding.refuted_by)}")
    _rule_page(finding)


RULE_SECTIONS = {
    "What it detects": "what_it_detects",
    "Why it matters": "why_it_matters",
    "Evidence": "evidence",
    "What to do": "what_to_do",
    "When it is wrong": "when_it_is_wrong",
    "References": "references",
}
"""Title of a section → the field of RulePage that holds its text."""


def _rule_page(finding: Finding) -> None:
    """Offer the page of the finding's rule; request it from the collector when it is opened."""
    key = f"rule-{finding.code}-{finding.where}-{finding.since_step}"
    with st.expander(
        "About this rule", icon=":material/menu_book:", key=key, on_change="rerun"
    ) as opened:
        if not opened.open:
            return
        try:
            page = client().rule(finding.code).value
        except Problem as problem:
            st.caption(f"The page of this rule is not available: {plain(problem.text)}")
            return
        st.markdown(f"**{plain(page.code)} {plain(words(page.rule))}.** {prose(page.summary)}")
        rule_text(page)


def rule_text(page: RulePage) -> None:
    """Show the sections of a rule's page and its thresholds."""
    for title, field in RULE_SECTIONS.items():
        st.markdown(f"**{title}**\n\n{bulleted(getattr(page, field))}")
    if page.thresholds:
        st.markdown(f"**Thresholds**\n\n{_threshold_table(page)}")


def _threshold_table(page: RulePage) -> str:
    rows = [
        (f"{prose(threshold.meaning)} {literal(name)}", plain(number(threshold.default)))
        for name, threshold in page.thresholds.items()
    ]
    return table(("threshold", "default"), rows)


def _evidence_table(finding: Finding) -> str:
    """Return one row per quantity: the measured value, its limit and its healthy range.

    Limit and range share a column: four columns do not fit on a phone.
    """
    rows = [row(item) for item in finding.evidence]
    cells = [(r.quantity, r.seen, "; ".join(x for x in (r.limit, r.healthy) if x)) for r in rows]
    header = ("evidence", "measured", "limit")
    return table(header, [[plain(cell) for cell in line] for line in cells])


def _layer_link(run: RunDetail, finding: Finding) -> dict[str, str]:
    link = {"run": run.id, "place": finding.where}
    if finding.stream and finding.stream != "scalar":
        link |= {"stream": finding.stream, "statistic": finding.statistic}
    return link


def _facts(finding: Finding) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(
            plain(finding.severity),
            icon=SEVERITY_ICON.get(finding.severity),
            color=SEVERITY_COLOUR.get(finding.severity, "gray"),  # type: ignore[arg-type]  # see above
        )
        until = "" if finding.is_open else f" to {finding.last_step:,}"
        st.caption(
            f"{plain(finding.code)} {plain(words(finding.rule))} · "
            f"{at_place(finding.where)} · since step {finding.since_step:,}{until} · "
            f"{percent(finding.confidence)} confidence",
            width="content",
        )
