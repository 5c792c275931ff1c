"""What a rule is: thresholds as fields, its page as docstring, a pure function of a history."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, ClassVar

from trainvitals.diagnosis.finding import Finding, Severity
from trainvitals.diagnosis.history import History


class Stage(IntEnum):
    """Where in the chain of causes a disease sits: earlier stages explain later ones."""

    DATA = 0
    INITIALISATION = 1
    WIRING = 2
    """What is connected to what, and which loss is paired with which output."""
    OPTIMIZER = 3
    PROPAGATION = 4
    """Vanishing, exploding, dead, saturated."""
    LOSS = 5
    """A symptom in the loss's course."""
    MONITOR = 6
    """About trainvitals itself."""


def threshold(default: float, meaning: str) -> Any:
    """Declare a field of a rule: its default, and what it means with its unit or range."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Rule(ABC):
    """A disease, and how to see it. Subclasses are frozen dataclasses, one file each.

    The docstring is the page: a summary line, then the sections What it detects, Why it matters,
    Evidence, What to do, When it is wrong, References.
    """

    code: ClassVar[str]
    """TV201."""
    stage: ClassVar[Stage]
    fix: ClassVar[str]
    """A PyTorch line that removes the cause; `check` may give a finding a more fitting one."""
    refuted_by: ClassVar[str] = ""
    """What one would have to see for a finding of this rule to be wrong."""

    @abstractmethod
    def check(self, history: History) -> Iterator[Finding]:
        """Yield a finding for each place that has the disease at the history's last step."""

    @staticmethod
    @abstractmethod
    def sick() -> History:
        """Return an example on which this rule speaks."""

    @staticmethod
    @abstractmethod
    def healthy() -> History:
        """Return the nearest example on which it must not: the trap, without the disease."""

    @classmethod
    def name(cls) -> str:
        """Return the rule's name as shown: the class's, in snake case (DeadRelu → dead_relu)."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def thresholds(cls) -> dict[str, tuple[float, str]]:
        """Return each threshold's name with its default and its meaning."""
        return {f.name: (f.default, f.metadata["meaning"]) for f in fields(cls)}  # type: ignore[misc]

    def finding(
        self,
        *,
        severity: Severity,
        since_step: int,
        summary: str,
        evidence: dict[str, float | str],
        where: str = "",
        fix: str = "",
        confidence: float = 1.0,
        stream: str = "",
        statistic: str = "",
    ) -> Finding:
        """Return a finding of this rule, with why, advice, fix and refutation from its page."""
        from trainvitals.diagnosis.pages import page_of

        page = page_of(type(self))
        return Finding(
            rule=self.name(),
            code=self.code,
            severity=severity,
            where=where,
            since_step=since_step,
            summary=summary,
            evidence=evidence,
            why=page.why_it_matters,
            advice=page.what_to_do,
            fix=fix or self.fix,
            confidence=confidence,
            refuted_by=self.refuted_by,
            stream=stream,
            statistic=statistic,
        )
