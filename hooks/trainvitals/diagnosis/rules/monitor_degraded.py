"""TV954: a part of trainvitals failed in this run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule
from trainvitals.wire import NotWatched

DEGRADED = "monitor degraded"
"""Prefix of the reason of a probe that was switched off after an exception."""


@dataclass(frozen=True)
class MonitorDegraded(Rule):
    """A probe or a rule of trainvitals failed and was switched off; the training is not affected.

    ## What it detects
    A probe that raised an exception and was switched off, a rule that raised an exception on
    this run's history, or a rule of another package that cannot be loaded.
    ## Why it matters
    This part of the run is no longer watched: without findings there, it is not known to be
    healthy.
    ## Evidence
    The probe or the rule, and the exception.
    ## What to do
    Report the exception to the trainvitals project. `trainvitals doctor` shows what is attached.
    The training needs no change.
    There is no code for it: the exception is in trainvitals.
    ## When it is wrong
    It is never wrong; it does not matter if you do not need that probe or rule.
    ## References
    docs/how-it-works.md: what trainvitals guarantees to the training process.
    """

    code: ClassVar[str] = "TV954"
    stage: ClassVar[Stage] = Stage.MONITOR
    damages_loss: ClassVar[bool] = False
    fix: ClassVar[str] = ""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield a finding for each probe that was switched off after an exception."""
        for name, reason in sorted(history.not_watched.items()):
            if reason.startswith(DEGRADED):
                yield self.finding(
                    severity=Severity.INFO,
                    where=name,
                    since_step=max(0, history.last_step),
                    summary=f"{name} is no longer watched: {reason}.",
                    evidence=(Evidence(quantity="reason", seen=reason),),
                )

    def about(self, rule: Rule, error: Exception, step: int) -> Finding:
        """Return the finding for a `rule` that raised `error`."""
        text = f"{type(error).__name__}: {error}"
        return self.finding(
            severity=Severity.INFO,
            where=rule.name(),
            since_step=max(0, step),
            summary=f"The rule {rule.name()} ({rule.code}) failed on this run: {text}.",
            evidence=(
                Evidence(quantity="rule", seen=rule.code),
                Evidence(quantity="error", seen=text),
            ),
        )

    def unusable(self, entry: str, reason: str, step: int) -> Finding:
        """Return the finding for a rule of another package that cannot be loaded."""
        return self.finding(
            severity=Severity.INFO,
            where=entry,
            since_step=max(0, step),
            summary=f"The rule {entry} of another package is not used: {reason}.",
            evidence=(
                Evidence(quantity="rule", seen=entry),
                Evidence(quantity="error", seen=reason),
            ),
        )

    @staticmethod
    def sick() -> History:
        """Return a probe that failed."""
        return _with("encoder.3", f"{DEGRADED}: RuntimeError: no kernel")

    @staticmethod
    def healthy() -> History:
        """Return a module that the user excluded."""
        return _with("encoder.3", "not in activations=")


def _with(name: str, reason: str) -> History:
    history = Example(3).scalars(loss=[1.0, 0.9, 0.8]).history
    history.add(NotWatched({name: reason}))
    return history
