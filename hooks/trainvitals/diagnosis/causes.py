"""Determine which finding explains which, and rank the findings.

The causal order is data → initialisation → wiring → optimizer → propagation → loss. Each rule
lists in `explains` the rules whose findings it can cause. A cause is open, at least a warning, and
does not begin later than its effect plus `SLACK_STEPS`, because rules need different numbers of
steps to detect a fault. If two findings can explain each other, the cause is the one of the
earlier stage; at the same stage, the one that began earlier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from types import MappingProxyType

from msgspec.structs import replace

from trainvitals.api.schema import Finding, Severity

SLACK_STEPS = 25
"""Example: the dead share is measured 20 captured steps after the units died."""
ROOTS_MAX = 3

PENALTY = MappingProxyType({Severity.ERROR: 0.7, Severity.WARNING: 0.35, Severity.INFO: 0.0})
"""Share by which an unexplained finding reduces the health; an explained one by a quarter of it."""

Explains = Mapping[str, Set[str]]
"""Code of a rule → codes of the rules whose findings it can cause. A key "TV701:optimizer" adds
codes for the findings of one stage, which a finding can have in place of its rule's own."""


def explained(findings: Sequence[Finding], explains: Explains) -> list[Finding]:
    """Return the findings ranked, with `explained_by` set and at most three root causes."""
    alarms = [f for f in findings if f.is_alarm]
    caused = {id(f) for f in alarms if _cause(f, alarms, explains)}
    result = []
    for finding in findings:
        # Prefer a root cause to a cause that is itself an effect.
        root_causes = [f for f in alarms if id(f) not in caused]
        cause = None
        if finding.is_alarm:
            cause = _cause(finding, root_causes, explains) or _cause(finding, alarms, explains)
        result.append(replace(finding, explained_by=cause.code if cause else ""))
    roots = sorted((f for f in result if f.is_alarm and not f.explained_by), key=_urgency)
    # Report at most three root causes; the others become notes.
    surplus = set(map(id, roots[ROOTS_MAX:]))
    result = [replace(f, severity=Severity.INFO) if id(f) in surplus else f for f in result]
    return sorted(result, key=_rank)


def headline_of(findings: Iterable[Finding]) -> Finding | None:
    """Return the first open, unexplained warning or error of ranked findings."""
    return next((f for f in findings if f.is_alarm and not f.explained_by), None)


def health_of(findings: Iterable[Finding]) -> float:
    """Return the health: 1 without open warnings and errors, lower with each of them."""
    health = 1.0
    for finding in findings:
        if finding.is_alarm:
            share = 0.25 if finding.explained_by else 1.0
            health *= 1 - PENALTY[finding.severity] * finding.confidence * share
    return health


def _cause(effect: Finding, alarms: Sequence[Finding], explains: Explains) -> Finding | None:
    causes = [f for f in alarms if _can_explain(f, effect, explains)]
    return min(causes, key=lambda f: (f.stage.rank, f.since_step), default=None)


def _can_explain(cause: Finding, effect: Finding, explains: Explains) -> bool:
    if not _lists(cause, effect, explains):
        return False
    if cause.since_step > effect.since_step + SLACK_STEPS:
        return False
    if not _lists(effect, cause, explains):
        return True
    return _precedence(cause) < _precedence(effect)


def _lists(cause: Finding, effect: Finding, explains: Explains) -> bool:
    keys = (cause.code, f"{cause.code}:{cause.stage}")
    return any(effect.code in explains.get(key, ()) for key in keys)


def _precedence(finding: Finding) -> tuple[int, int, str]:
    # Compare the stages first: within SLACK_STEPS, the order of the steps is not reliable.
    return (finding.stage.rank, finding.since_step, finding.code)


def _urgency(finding: Finding) -> tuple[float, ...]:
    return (
        -finding.severity.rank,
        finding.stage.rank,
        -finding.confidence,
        finding.since_step,
    )


def _rank(finding: Finding) -> tuple[float, ...]:
    return (
        float(not finding.is_open),
        float(not finding.is_alarm),
        float(bool(finding.explained_by)),
        *_urgency(finding),
    )
