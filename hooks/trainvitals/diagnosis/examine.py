"""The engine: apply the rules to a history, continue the episodes, rank by cause.

Comes in: a `History`, and the findings of the previous examination.
Goes out: ranked findings; from `diagnose`, a `Diagnosis` with one headline and one verdict.
Promise:  pure and stateless; an exception in a rule becomes a finding (TV954).
Start at `Engine.examine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainvitals.api.schema import Diagnosis, Finding, Verdict
from trainvitals.diagnosis.causes import explained, headline_of, health_of
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.episodes import continued
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.registry import RULES, all_rules
from trainvitals.diagnosis.rule import Rule, explains_of
from trainvitals.diagnosis.rules.monitor_degraded import MonitorDegraded
from trainvitals.diagnosis.thresholds import with_facts
from trainvitals.diagnosis.verdict import blind_rules, verdict_of

RESOLVED_MAX = 50
"""Maximum number of resolved findings; the newest are kept."""


class Engine:
    """A set of rules that examines histories."""

    def __init__(self, rules: Sequence[Rule] | None = None) -> None:
        """`rules`: the rules with their thresholds; None: all rules with their defaults."""
        self.rules = tuple(all_rules() if rules is None else rules)
        self._by_code = {rule.code: rule for rule in RULES}
        self._by_code |= {rule.code: type(rule) for rule in self.rules}
        self._explains = explains_of([*self._by_code.values()])

    def rules_for(self, history: History) -> tuple[Rule, ...]:
        """Return the rules with the thresholds that the run itself has set, among its facts."""
        return with_facts(self.rules, history.facts)

    def examine(self, history: History, previous: Sequence[Finding] = ()) -> tuple[Finding, ...]:
        """Return the ranked findings of a run; `previous` is the last return value for this run.

        Stateless: the first step of an episode comes from `previous`.
        """
        found: list[Finding] = []
        # Infinities are valid input here.
        with history.unchanged(), np.errstate(all="ignore"):
            for rule in self.rules_for(history):
                found += self._check(rule, history)
            course = Course(history)
            findings = continued(
                found, previous, history.last_step, lambda f: self._is_over(f, course)
            )
        over = [f for f in findings if not f.is_open]
        over = sorted(over, key=lambda f: -f.last_step)[RESOLVED_MAX:]
        dropped = set(map(id, over))
        return tuple(explained([f for f in findings if id(f) not in dropped], self._explains))

    def _is_over(self, finding: Finding, course: Course) -> bool:
        rule = self._by_code.get(finding.code)
        if rule is None:
            return True
        if rule.permanent:
            return False
        if rule.ends_with_learning and course.has_learned:
            return True
        return not rule.damages_loss or course.recovered(finding.since_step, finding.last_step)

    def _check(self, rule: Rule, history: History) -> list[Finding]:
        try:
            findings = {(f.code, f.where): f for f in rule.check(history)}
        except Exception as error:  # noqa: BLE001 - an unexpected history can raise anything
            return [MonitorDegraded().about(rule, error, history.last_step)]
        return list(findings.values())


def diagnose(
    history: History,
    findings: Sequence[Finding],
    *,
    rules: Sequence[Rule] | None = None,
    run: str = "",
    state: str = "running",
    error: str = "",
    watched: Sequence[str] = (),
    not_watched: Mapping[str, str] | None = None,
    overhead: float | None = None,
) -> Diagnosis:
    """Return the diagnosis of a run from its ranked findings (`Engine.examine`).

    `state` is the run's state (running, lost, finished, failed, stopped); `error` is the reason of
    a failure.
    """
    checked = all_rules() if rules is None else rules
    headline = headline_of(findings)
    reasons = dict(history.not_watched if not_watched is None else not_watched)
    blind = blind_rules(history, checked, reasons)
    verdict = verdict_of(
        history.steps_seen,
        headline,
        {rule: reason for rule, reason in blind.items() if not reason.is_chosen},
        state=state,
        steps_needed=max((rule.steps_needed for rule in checked), default=0),
    )
    return Diagnosis(
        run=run,
        step=history.last_step,
        verdict=verdict,
        headline=headline,
        findings=tuple(findings),
        health=0.0 if verdict is Verdict.FAILED else health_of(findings),
        blind={rule: reason.text for rule, reason in blind.items()},
        error=error,
        watched=tuple(watched),
        not_watched=reasons,
        overhead=overhead,
    )
