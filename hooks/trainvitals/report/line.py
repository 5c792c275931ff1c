"""Format a diagnosis as one line: for logs, and for `TRAINVITALS_REPORT=line`."""

from __future__ import annotations

from trainvitals.api.schema import Diagnosis, Finding, Severity, Verdict
from trainvitals.api.wording import age_text
from trainvitals.report.text import at_place, clean, counted, failure


def line(diagnosis: Diagnosis, *, name: str = "", details: str = "") -> str:
    """Return the verdict in one line, without a line break at its end.

    `name` is the run's name, shown in place of its id; "": the id. `details` says where the
    headline's text is, in place of that text, because the program has printed it before.
    """
    run = clean(name or diagnosis.run)
    of_run = f"run {run}: " if run else ""
    if diagnosis.headline is None:
        return f"trainvitals: {of_run}{verdict_text(diagnosis)}"
    others = len(diagnosis.alarms) - 1
    more = f" (and {counted(others, 'more finding')})" if others > 0 else ""
    failed = f"{verdict_text(diagnosis)} " if diagnosis.verdict is Verdict.FAILED else ""
    begin = f"trainvitals: {of_run}{failed}"
    if details:
        return f"{begin}{_finding_title(diagnosis.headline)}{more}. {clean(details)}"
    age = age_text(diagnosis.headline, diagnosis.step)
    old = f" ({age})" if age else ""
    return f"{begin}{finding_line(diagnosis.headline)}{old}{more}"


def finding_line(finding: Finding) -> str:
    """Return a finding in one line: severity, code, name, place, step and summary."""
    return f"{_finding_title(finding)}: {clean(finding.summary)}"


def _finding_title(finding: Finding) -> str:
    return (
        f"{finding.severity.upper()} {clean(finding.code)} {clean(finding.rule)}"
        f"{at_place(finding.where)} since step {finding.since_step:,}"
    )


def verdict_text(diagnosis: Diagnosis) -> str:
    """Return the verdict as text. "Healthy" is never the default."""
    steps = counted(diagnosis.step + 1, "step")
    if diagnosis.verdict is Verdict.FAILED:
        return f"failed after {steps}: {failure(diagnosis.error) or 'no reason was given'}."
    if diagnosis.checkup is not None and diagnosis.is_checkup:
        if diagnosis.verdict is Verdict.BLIND:
            return f"nothing found, but {_blind(diagnosis)}"
        passes = counted(diagnosis.checkup.batches, "pass", "passes")
        return f"ready to train: nothing found in {passes}"
    if diagnosis.step < 0:
        return "nothing measured yet: no optimizer step was seen"
    if diagnosis.verdict is Verdict.BLIND:
        return f"blind after {steps}: {_blind(diagnosis)}"
    if diagnosis.verdict is Verdict.TOO_EARLY:
        return f"too early to say: nothing found in {steps}"
    resolved = sum(not f.is_open and f.severity is not Severity.INFO for f in diagnosis.findings)
    if resolved:
        return f"healthy again after {steps}; {counted(resolved, 'finding')} resolved"
    off = f"; {counted(len(diagnosis.blind), 'rule')} switched off" if diagnosis.blind else ""
    return f"healthy: nothing found in {steps}{off}"


def _blind(diagnosis: Diagnosis) -> str:
    reasons = ", ".join(dict.fromkeys(map(clean, diagnosis.blind.values())))
    return f"{counted(len(diagnosis.blind), 'rule')} could not run ({reasons})"
