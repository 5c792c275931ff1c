"""Which finding explains which, and which one to look at first.

The chain is data → initialisation → wiring → optimizer → propagation → loss. `EXPLAINS` says for
each code what it can cause; a cause must be open, at least a warning, and not have begun later
than its effect (up to `SLACK_STEPS`: rules see a disease at different speeds).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType

from trainvitals.diagnosis.finding import Finding, Severity, State
from trainvitals.diagnosis.rule import Stage

SLACK_STEPS = 25
"""The dead share, for one, is known 20 captured steps after the units died."""
ROOTS_MAX = 3

EXPLAINS: Mapping[str, Set[str]] = MappingProxyType(
    {
        "TV301": {
            "TV101",
            "TV102",
            "TV103",
            "TV201",
            "TV202",
            "TV303",
            "TV501",
            "TV502",
            "TV602",
            "TV603",
            "TV701",
        },
        "TV303": {"TV101", "TV501", "TV502", "TV602", "TV701"},
        "TV603": {"TV501", "TV502", "TV701"},
        "TV601": {
            "TV101",
            "TV102",
            "TV201",
            "TV202",
            "TV203",
            "TV501",
            "TV502",
            "TV503",
            "TV504",
            "TV505",
            "TV701",
            "TV901",
        },
        "TV602": {"TV501", "TV502", "TV507"},
        "TV101": {"TV501", "TV502", "TV602", "TV603", "TV701"},
        "TV102": {"TV201", "TV202", "TV501", "TV502", "TV503", "TV504", "TV601", "TV901"},
        "TV201": {"TV101", "TV103", "TV501", "TV502", "TV602", "TV603", "TV701"},
        "TV202": {"TV101", "TV501", "TV502", "TV602"},
        "TV701": {"TV501", "TV502"},
        "TV901": {"TV101", "TV102", "TV201", "TV202", "TV501", "TV502", "TV503", "TV504", "TV701"},
        "TV504": {"TV502", "TV503"},
    }
)
"""Cause → its possible effects. Where two can explain each other, the one of the earlier stage
does; of two at the same stage, the one that began earlier."""

PENALTY = MappingProxyType({Severity.ERROR: 0.7, Severity.WARNING: 0.35, Severity.INFO: 0.0})
"""What an unexplained finding takes from the health that is left; an explained one a quarter."""


def stage_of(finding: Finding, stages: Mapping[str, Stage]) -> Stage:
    """Return where in the chain a finding sits."""
    if finding.code == "TV102" and "signal_growth" in finding.evidence:
        # Seen before any update: it was the initialisation, not the learning rate.
        return Stage.INITIALISATION
    return stages.get(finding.code, Stage.MONITOR)


def is_alarm(finding: Finding) -> bool:
    """Whether the finding is open and a warning or an error."""
    return finding.state is State.OPEN and finding.severity is not Severity.INFO


def explained(findings: Sequence[Finding], stages: Mapping[str, Stage]) -> list[Finding]:
    """Return the findings with `explained_by` set, ranked, at most three of them roots."""
    alarms = [f for f in findings if is_alarm(f)]
    caused = {id(f) for f in alarms if _cause(f, alarms, stages)}
    result = []
    for finding in findings:
        # A first cause before one that is an effect itself.
        first = [f for f in alarms if id(f) not in caused]
        cause = None
        if is_alarm(finding):
            cause = _cause(finding, first, stages) or _cause(finding, alarms, stages)
        result.append(replace(finding, explained_by=cause.code if cause else ""))
    roots = sorted(
        (f for f in result if is_alarm(f) and not f.explained_by),
        key=lambda f: _urgency(f, stages),
    )
    # More than three first causes are no diagnosis. What is left over stays as a note.
    surplus = set(map(id, roots[ROOTS_MAX:]))
    result = [replace(f, severity=Severity.INFO) if id(f) in surplus else f for f in result]
    return sorted(result, key=lambda f: _rank(f, stages))


def headline_of(findings: Iterable[Finding]) -> Finding | None:
    """Return the first open, unexplained warning or error of ranked findings."""
    return next((f for f in findings if is_alarm(f) and not f.explained_by), None)


def health_of(findings: Iterable[Finding]) -> float:
    """Return 1 for a run with no open warning or error, towards 0 with each."""
    health = 1.0
    for finding in findings:
        if is_alarm(finding):
            share = 0.25 if finding.explained_by else 1.0
            health *= 1 - PENALTY[finding.severity] * finding.confidence * share
    return health


def _cause(
    effect: Finding, alarms: Sequence[Finding], stages: Mapping[str, Stage]
) -> Finding | None:
    causes = [f for f in alarms if _can_explain(f, effect, stages)]
    return min(causes, key=lambda f: (stage_of(f, stages), f.since_step), default=None)


def _can_explain(cause: Finding, effect: Finding, stages: Mapping[str, Stage]) -> bool:
    if effect.code not in EXPLAINS.get(cause.code, ()):
        return False
    if cause.since_step > effect.since_step + SLACK_STEPS:
        return False
    if cause.code not in EXPLAINS.get(effect.code, ()):
        return True
    return _precedence(cause, stages) < _precedence(effect, stages)


def _precedence(finding: Finding, stages: Mapping[str, Stage]) -> tuple[int, int, str]:
    # Stages first: within the slack the order of steps says little.
    return (int(stage_of(finding, stages)), finding.since_step, finding.code)


def _urgency(finding: Finding, stages: Mapping[str, Stage]) -> tuple[float, ...]:
    return (
        -finding.severity.rank,
        int(stage_of(finding, stages)),
        -finding.confidence,
        finding.since_step,
    )


def _rank(finding: Finding, stages: Mapping[str, Stage]) -> tuple[float, ...]:
    return (
        float(finding.state is State.RESOLVED),
        float(not is_alarm(finding)),
        float(bool(finding.explained_by)),
        *_urgency(finding, stages),
    )
