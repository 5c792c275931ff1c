"""One finding from the step it opens to the step it is over, over many looks at a run.

Comes in: what the rules say now, and the findings of the look before.
Goes out: the same episodes, continued: still open, resolved, reopened.
Promise:  an episode is (code, where); its `since_step` never becomes later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainvitals.diagnosis.finding import Finding, State


def continued(now: Sequence[Finding], previous: Sequence[Finding], last_step: int) -> list[Finding]:
    """Return the findings of now and those of before that are over.

    A finding that moved to another place (the worst layer is now another one) keeps the step at
    which the disease began; at its old place it is resolved.
    """
    before = {(f.code, f.where): f for f in previous}
    here = {(f.code, f.where) for f in now}
    gone = {f.code: f for f in previous if f.state is State.OPEN and (f.code, f.where) not in here}
    findings = []
    for finding in now:
        old = before.get((finding.code, finding.where)) or gone.get(finding.code)
        since = min(finding.since_step, old.since_step) if old else finding.since_step
        findings.append(
            replace(
                finding,
                since_step=since,
                state=State.OPEN,
                last_step=max(last_step, since),
                explained_by="",
            )
        )
    findings += [
        replace(f, state=State.RESOLVED, last_step=max(f.last_step, f.since_step))
        for key, f in before.items()
        if key not in here
    ]
    return findings
