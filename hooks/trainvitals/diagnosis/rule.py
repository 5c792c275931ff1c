"""What a rule is: thresholds as fields, its page as docstring, a pure function of a history."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar

from trainvitals.api.schema import Evidence, Finding, RulePage, Severity, Stage, Threshold
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.pages import sections_of
from trainvitals.wire import Scalar, Stream


def threshold(default: float, meaning: str) -> Any:
    """Declare a field of a rule: its default, and what it means with its unit or range."""
    return field(default=default, metadata={"meaning": meaning})


Need = Stream | Scalar
"""A stream or one of our scalars that a rule reads."""


@dataclass(frozen=True)
class Rule(ABC):
    """A fault and how to detect it. Subclasses are frozen dataclasses, one file each.

    The docstring is the page: a summary line, then the sections What it detects, Why it matters,
    Evidence, What to do, When it is wrong, References.
    """

    code: ClassVar[str]
    """TV201."""
    stage: ClassVar[Stage]
    explains: ClassVar[frozenset[str]] = frozenset()
    """Codes of the rules whose findings this one can cause."""
    explains_at: ClassVar[Mapping[Stage, frozenset[str]]] = MappingProxyType({})
    """Further codes for findings that have this stage in place of the rule's own."""
    needs: ClassVar[tuple[Need, ...]] = ()
    """What the rule reads; it is blind where one of them was never seen."""
    damages_loss: ClassVar[bool] = True
    """A finding is over only when the loss is back where it would be without the fault."""
    ends_with_learning: ClassVar[bool] = False
    """A finding is over when the model has learned, also if it was late."""
    before_training: ClassVar[bool] = False
    """Whether the rule needs only some forward and backward passes, without an update."""
    permanent: ClassVar[bool] = False
    """A finding is a fact that later steps cannot undo: it is never resolved."""
    fix: ClassVar[str]
    """A PyTorch line that removes the cause; `check` may give a finding a more fitting one."""
    refuted_by: ClassVar[str] = ""
    """The observation that would refute a finding of this rule."""

    @abstractmethod
    def check(self, history: History) -> Iterator[Finding]:
        """Yield a finding for each place that has the fault at the history's last step."""

    @staticmethod
    @abstractmethod
    def sick() -> History:
        """Return an example in which this rule finds its fault."""

    @staticmethod
    @abstractmethod
    def healthy() -> History:
        """Return the most similar example without the fault, in which it finds nothing."""

    @property
    def steps_needed(self) -> int:
        """Optimizer steps after which the absence of a finding is evidence."""
        return 0

    @classmethod
    def name(cls) -> str:
        """Return the rule's name as shown: the class's, in snake case (DeadRelu → dead_relu)."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def thresholds(cls) -> dict[str, Threshold]:
        """Return each threshold by its field's name."""
        return {
            f.name: Threshold(f.default, f.metadata["meaning"])  # type: ignore[arg-type]
            for f in fields(cls)
        }

    @classmethod
    @cache
    def page(cls) -> RulePage:
        """Return the rule's page. Raises ValueError when its docstring is not one."""
        return RulePage(
            code=cls.code,
            rule=cls.name(),
            fix=cls.fix,
            refuted_by=cls.refuted_by,
            thresholds=cls.thresholds(),
            **sections_of(cls.__name__, cls.__doc__),
        )

    def finding(
        self,
        *,
        severity: Severity,
        since_step: int,
        summary: str,
        evidence: Sequence[Evidence],
        where: str = "",
        fix: str | None = None,
        advice: str = "",
        stage: Stage | None = None,
        confidence: float = 1.0,
        stream: str = "",
        statistic: str = "",
    ) -> Finding:
        """Return a finding of this rule, with why, advice, fix and refutation from its page.

        `fix`, `advice` and `stage` replace the rule's own where the evidence points elsewhere;
        an empty `fix` says that no single fix follows from the evidence.
        """
        page = self.page()
        return Finding(
            rule=self.name(),
            code=self.code,
            severity=severity,
            where=where,
            since_step=since_step,
            summary=summary,
            evidence=tuple(evidence),
            why=page.why_it_matters,
            advice=advice or page.what_to_do,
            fix=self.fix if fix is None else fix,
            stage=stage or self.stage,
            confidence=confidence,
            refuted_by=self.refuted_by,
            stream=stream,
            statistic=statistic,
        )


def explains_of(rules: Sequence[Rule | type[Rule]]) -> dict[str, frozenset[str]]:
    """Return what each rule explains, as `causes.explained` reads it."""
    found = {rule.code: rule.explains for rule in rules}
    return found | {
        f"{rule.code}:{stage}": codes for rule in rules for stage, codes in rule.explains_at.items()
    }
