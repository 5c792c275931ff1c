"""What the collector answers, as types: see the query API's own schemas.

Fields that this version does not show are left out; msgspec passes over what it does not know.
"""

from __future__ import annotations

from typing import Any

import msgspec

Numbers = list[float | None]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule says; see trainvitals.diagnosis.finding.Finding."""

    rule: str
    code: str
    severity: str
    since_step: int
    summary: str
    where: str = ""
    state: str = "open"
    evidence: dict[str, float | str | None] = {}
    why: str = ""
    advice: str = ""
    fix: str = ""
    confidence: float = 1.0
    explained_by: str = ""
    refuted_by: str = ""
    last_step: int = -1
    stream: str = ""
    statistic: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it is still so."""
        return self.state == "open"


class Counts(msgspec.Struct, frozen=True):
    """Open findings by severity."""

    error: int = 0
    warning: int = 0
    info: int = 0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the run list has it."""

    id: str
    project: str
    name: str
    state: str
    started_at: float
    last_report_at: float
    step: int
    ended_at: float | None = None
    total_steps: int | None = None
    loss: float | None = None
    health: float | None = None
    headline: Finding | None = None
    findings: Counts = Counts()
    sparkline: Numbers = []
    step_rate: float | None = None
    tags: list[str] = []
    attempt: int = 0
    host: str = ""
    overhead: float | None = None

    @property
    def verdict(self) -> str:
        """The headline's severity, "healthy", or "unknown" before the first diagnosis."""
        if self.headline is not None:
            return self.headline.severity
        return "unknown" if self.health is None or self.step < 0 else "healthy"

    @property
    def version(self) -> tuple[object, ...]:
        """Changes when there may be new curves."""
        return (self.attempt, self.step, self.last_report_at, self.state)


class RunPage(msgspec.Struct, frozen=True):
    """Some runs, newest started first."""

    runs: list[Run]
    next_cursor: str | None = None


class Metadata(msgspec.Struct, frozen=True):
    """What the training process said of itself."""

    git_commit: str = ""
    argv: list[str] = []
    versions: dict[str, str] = {}
    pid: int = 0
    facts: dict[str, str | float | None] = {}


class Dropped(msgspec.Struct, frozen=True):
    """An interval of records that could not be kept."""

    first_step: int
    last_step: int
    stream: str
    reason: str
    records: int


class Event(msgspec.Struct, frozen=True):
    """Something that happened at a step."""

    step: int
    time: float
    kind: str
    text: str = ""


class RunDetail(Run, frozen=True, kw_only=True):
    """All that is known of a run but its curves."""

    config: dict[str, Any] = {}
    metadata: Metadata = Metadata()
    dropped: list[Dropped] = []
    not_watched: dict[str, str] = {}
    events: list[Event] = []


class Findings(msgspec.Struct, frozen=True):
    """All findings of a run, ranked, open ones first."""

    findings: list[Finding]


class Place(msgspec.Struct, frozen=True):
    """One row of a stream."""

    name: str
    kind: str = ""
    shape: list[int] = []
    depth: int = -1
    module: str = ""
    module_kind: str = ""


class Layout(msgspec.Struct, frozen=True):
    """The rows and columns of one stream."""

    stream: str
    statistics: list[str]
    places: list[Place]


class Layouts(msgspec.Struct, frozen=True):
    """The newest layout of each stream."""

    streams: list[Layout]

    def of(self, stream: str) -> Layout | None:
        """Return the layout of `stream`, None when it is not measured."""
        return next((layout for layout in self.streams if layout.stream == stream), None)


class Curve(msgspec.Struct, frozen=True):
    """One place's course in buckets of steps; `mean` of a bucket without finite values is None."""

    place: str
    step: list[int] = []
    last_step: list[int] = []
    min: Numbers = []
    mean: Numbers = []
    max: Numbers = []
    last: Numbers = []
    nonfinite: list[int] = []
    count: list[int] = []


class Series(msgspec.Struct, frozen=True):
    """Curves of one statistic."""

    stream: str
    statistic: str
    series: list[Curve]


class Heatmap(msgspec.Struct, frozen=True):
    """Means over finite values: one row a place, by depth, one column a bucket of steps."""

    stream: str
    statistic: str
    places: list[str]
    steps: list[int]
    values: list[Numbers]
