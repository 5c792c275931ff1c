"""Rules from other packages, by the entry-point group `trainvitals.rules`.

Comes in: entry points, each the class of a rule. Goes out: the rules to run in addition to the
          built-in ones.
Promise:  a rule that cannot be used is replaced by a rule that reports this (TV954).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar

from trainvitals.api.schema import Finding, Stage
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.registry import RULES, all_rules
from trainvitals.diagnosis.rule import Rule
from trainvitals.diagnosis.rules.monitor_degraded import MonitorDegraded
from trainvitals.diagnosis.verdict import BLIND_STEPS, blind_rules

GROUP = "trainvitals.rules"


@cache
def installed_rules() -> tuple[Rule, ...]:
    """Return our rules and those of installed packages, with their default thresholds.

    Read once: a package that is installed later needs a new process.
    """
    return (*all_rules(), *loaded(entry_points(group=GROUP)))


def usable_rules() -> list[Rule]:
    """Return the installed rules that have a page: all except those that cannot be used."""
    return [rule for rule in installed_rules() if not isinstance(rule, UnusableRule)]


def loaded(entries: Iterable[EntryPoint]) -> tuple[Rule, ...]:
    """Return a rule for each entry point: the user's, or one that reports why it is not used."""
    taken = {name for rule in RULES for name in (rule.code, rule.name())}
    rules: list[Rule] = []
    for entry in entries:
        rule = _usable(entry, taken)
        if not isinstance(rule, UnusableRule):
            taken |= {rule.code, rule.name()}
        rules.append(rule)
    return tuple(rules)


def _usable(entry: EntryPoint, taken: set[str]) -> Rule:
    try:
        made = entry.load()
        rule = made() if isinstance(made, type) else made
        if not isinstance(rule, Rule):
            raise TypeError(f"{entry.value} is not a trainvitals.diagnosis.rule.Rule")
        if used := {rule.code, rule.name()} & taken:
            raise ValueError(f"{', '.join(sorted(used))} belongs to another rule")
        rule.page()
        Stage(rule.stage)
        int(rule.steps_needed)
        frozenset(rule.explains)
        blind_rules(Example(BLIND_STEPS).scalars(loss=1.0).history, [rule], {})
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's module can raise anything
        return UnusableRule(entry.name, f"{type(error).__name__}: {error}")
    return rule


@dataclass(frozen=True)
class UnusableRule(Rule):
    """Reports that a rule of another package cannot be used."""

    entry: str
    reason: str

    code: ClassVar[str] = MonitorDegraded.code
    stage: ClassVar[Stage] = Stage.MONITOR
    damages_loss: ClassVar[bool] = False
    fix: ClassVar[str] = ""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield the finding."""
        yield MonitorDegraded().unusable(self.entry, self.reason, history.last_step)

    @staticmethod
    def sick() -> History:
        """Return any history: the finding does not depend on it."""
        return Example(1).history

    @staticmethod
    def healthy() -> History:
        """Return any history."""
        return Example(1).history
