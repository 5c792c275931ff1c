"""Continue the episodes of findings over successive examinations of a run.

An episode is one finding from the step at which it opens to the step at which it is resolved.

Comes in: the current findings of the rules, and the findings of the previous examination.
Goes out: findings, each open, resolved or reopened.
Promise:  `since_step` of an open episode never increases; a reopened episode starts at the step
          at which it reopened; a warning or error is resolved only after its damage is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from trainvitals.api.schema import Finding, State


def continued(
    now: Sequence[Finding],
    previous: Sequence[Finding],
    last_step: int,
    is_over: Callable[[Finding], bool] = lambda _: True,
) -> list[Finding]:
    """Return the current findings, the earlier ones that remain open, and the resolved ones.

    `is_over` returns whether the damage of a warning or error that no rule reports any more is
    undone; until then it remains open. A finding that moved to another place (another layer is now
    the worst) keeps the step at which the fault began; at its old place it is resolved.
    """
    before = {(f.code, f.where): f for f in previous if f.is_open}
    resolved = [f for f in previous if not f.is_open]
    here = {(f.code, f.where) for f in now}
    codes = {f.code for f in now}
    gone = [f for key, f in before.items() if key not in here]
    moved = {f.code: f for f in gone}
    ended = {(f.code, f.where): f.last_step for f in sorted(resolved, key=lambda f: f.last_step)}
    findings = []
    for finding in now:
        key = (finding.code, finding.where)
        since = finding.since_step
        if old := before.get(key) or moved.get(finding.code):
            since = min(since, old.since_step)
        elif key in ended:
            since = min(last_step, max(since, ended[key] + 1))
        findings.append(
            replace(
                finding,
                since_step=since,
                state=State.OPEN,
                last_step=max(last_step, since),
                explained_by="",
            )
        )
    for finding in gone:
        if finding.is_alarm and finding.code not in codes and not is_over(finding):
            findings.append(replace(finding, explained_by=""))
        else:
            last = max(finding.last_step, finding.since_step)
            resolved.append(replace(finding, state=State.RESOLVED, last_step=last))
    return findings + resolved
