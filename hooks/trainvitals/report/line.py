"""A diagnosis in one line: for logs, and for `TRAINVITALS_REPORT=line`."""

from __future__ import annotations

from trainvitals.diagnosis.finding import Diagnosis, Finding, Severity
from trainvitals.report.text import at_place, clean, counted


def line(diagnosis: Diagnosis) -> str:
    """Return the verdict in one line, without a line break at its end."""
    run = clean(diagnosis.run)
    of_run = f"run {run}: " if run else ""
    if diagnosis.headline is None:
        return f"trainvitals: {of_run}{verdict(diagnosis)}"
    others = len(alarms(diagnosis)) - 1
    more = f" (and {counted(others, 'more finding')})" if others > 0 else ""
    return f"trainvitals: {of_run}{finding_line(diagnosis.headline)}{more}"


def finding_line(finding: Finding) -> str:
    """Return a finding in one line: severity, code, name, place, step and its sentence."""
    return (
        f"{finding.severity.upper()} {clean(finding.code)} {clean(finding.rule)} "
        f"{at_place(finding.where)} since step {finding.since_step:,}: {clean(finding.summary)}"
    )


def verdict(diagnosis: Diagnosis) -> str:
    """Return what is to be said of a run that has no headline.

    "Healthy" is a claim: a run of which nothing was measured does not get it.
    """
    if diagnosis.step < 0:
        return "nothing measured yet: no optimizer step was seen"
    steps = counted(diagnosis.step + 1, "step")
    resolved = sum(f.severity is not Severity.INFO for f in diagnosis.findings)
    if resolved:
        return f"healthy now, after {steps}; {counted(resolved, 'finding')} resolved"
    return f"healthy after {steps}"


def alarms(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """Return the open findings that are alarms: warnings and errors."""
    return tuple(f for f in diagnosis.open if f.severity is not Severity.INFO)
