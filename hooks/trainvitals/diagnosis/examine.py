"""The engine: rules over a history, joined into episodes, ordered by cause.

Comes in: a `History`, and the findings of the look before.
Goes out: findings, ranked; with `diagnose`, a `Diagnosis` with one headline.
Promise:  pure and stateless; a rule that raises becomes a finding (TV954), not a crash.
Start at `Engine.examine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainvitals.diagnosis.causes import explained, headline_of, health_of
from trainvitals.diagnosis.episodes import continued
from trainvitals.diagnosis.finding import Diagnosis, Finding, State
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.registry import RULES, all_rules
from trainvitals.diagnosis.rule import Rule
from trainvitals.diagnosis.rules.monitor_degraded import MonitorDegraded

RESOLVED_MAX = 50
"""Findings that are over and still told of: the newest."""


class Engine:
    """Looks at histories with a set of rules."""

    def __init__(self, rules: Sequence[Rule] | None = None) -> None:
        """`rules`: which ones, with their thresholds; None: all, with their defaults."""
        self.rules = tuple(all_rules() if rules is None else rules)
        self._stages = {rule.code: rule.stage for rule in RULES}
        self._stages |= {rule.code: rule.stage for rule in self.rules}

    def examine(self, history: History, previous: Sequence[Finding] = ()) -> tuple[Finding, ...]:
        """Return what is to be said of a run now, ranked; `previous` as this returned it before.

        Stateless: an episode's first step, and that it is over, come from `previous`.
        """
        found: list[Finding] = []
        with np.errstate(all="ignore"):  # infinities are data here, not accidents
            for rule in self.rules:
                found += self._ask(rule, history)
        findings = continued(found, previous, history.last_step)
        over = [f for f in findings if f.state is State.RESOLVED]
        over = sorted(over, key=lambda f: -f.last_step)[RESOLVED_MAX:]
        dropped = set(map(id, over))
        return tuple(explained([f for f in findings if id(f) not in dropped], self._stages))

    def _ask(self, rule: Rule, history: History) -> list[Finding]:
        try:
            findings = {(f.code, f.where): f for f in rule.check(history)}
        except Exception as error:  # noqa: BLE001  # any rule may meet what it never thought of
            return [MonitorDegraded().about(rule, error, history.last_step)]
        return list(findings.values())


def diagnose(
    history: History,
    findings: Sequence[Finding],
    *,
    run: str = "",
    watched: Sequence[str] = (),
    not_watched: Mapping[str, str] | None = None,
    overhead: float | None = None,
) -> Diagnosis:
    """Return the diagnosis of a run from its ranked findings (`Engine.examine`)."""
    return Diagnosis(
        run=run,
        step=history.last_step,
        headline=headline_of(findings),
        findings=tuple(findings),
        health=health_of(findings),
        watched=tuple(watched),
        not_watched=dict(history.not_watched if not_watched is None else not_watched),
        overhead=overhead,
    )
