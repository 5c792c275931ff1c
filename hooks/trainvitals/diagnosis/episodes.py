"""One finding from the step it opens to the step it is over, over many looks at a run.

Comes in: what the rules report now, and the findings of the look before.
Goes out: the same episodes, continued: still open, resolved, reopened.
Promise:  an open episode's `since_step` never becomes later; a reopened one starts when it
          reopened; an alarm is resolved only when the damage is undone as well.
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
    """Return the findings of now, those that are not over yet, and those that are resolved.

    `is_over` tells of an alarm that no rule reports any more whether its damage is undone; it
    stays open until then. A finding that moved to another place (the worst layer is now another
    one) keeps the step at which the fault began; at its old place it is resolved.
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
