"""What a rule says, and what all rules together say of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Evidence = Mapping[str, float | str]
"""Name → number (or a short text): what was seen, the threshold, the healthy range."""


class Severity(StrEnum):
    """How bad a finding is. Only warnings and errors are alarms."""

    INFO = "info"
    """Worth knowing; never an alarm."""
    WARNING = "warning"
    """The run is likely worse than it should be."""
    ERROR = "error"
    """The run is broken."""

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error: for sorting and for `--fail-on`."""
        return tuple(Severity).index(self)


class State(StrEnum):
    """Whether what a finding says is still so."""

    OPEN = "open"
    RESOLVED = "resolved"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One disease at one place, from one step on, with its numbers and its cure."""

    rule: str
    """The rule's name: dead_relu."""
    code: str
    """TV201."""
    severity: Severity
    where: str = ""
    """The layer's or parameter's name; "" for the run as a whole."""
    since_step: int
    """The first step at which it was so."""
    state: State = State.OPEN
    summary: str
    """One sentence, with the numbers."""
    evidence: Evidence = field(default_factory=dict)
    why: str = ""
    """Why it matters."""
    advice: str = ""
    """What to do, in words."""
    fix: str = ""
    """What to do, in PyTorch."""
    confidence: float = 1.0
    """0 to 1."""
    explained_by: str = ""
    """Code of the finding that causes this one; "" for a root."""
    refuted_by: str = ""
    """What one would have to see for this to be wrong."""
    last_step: int = -1
    """The newest step at which it was still so; −1 until the engine sets it."""
    stream: str = ""
    """With `statistic`: which curve to draw as evidence, e.g. gradient / l2 at `where`."""
    statistic: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings of a run, ranked, and one headline."""

    run: str = ""
    step: int = -1
    """The last finished step this diagnosis knows of; −1 before the first."""
    headline: Finding | None = None
    """The root cause to look at first; None for a run without open warnings and errors."""
    findings: tuple[Finding, ...] = ()
    """Open ones first, then by rank of the cause; resolved ones last."""
    health: float = 1.0
    """0 (broken) to 1 (nothing found)."""
    watched: tuple[str, ...] = ()
    """Names of the parameters and modules that are measured."""
    not_watched: Mapping[str, str] = field(default_factory=dict)
    """Name → why it is not measured."""
    overhead: float | None = None
    """Own cost as a share of step time; None before it was measured."""

    @property
    def open(self) -> tuple[Finding, ...]:
        """The findings that are still so."""
        return tuple(f for f in self.findings if f.state is State.OPEN)
