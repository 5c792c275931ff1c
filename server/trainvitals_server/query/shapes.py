"""What the query API answers, for encoding (msgspec) and for OpenAPI (its schemas).

Numbers that are NaN or infinite become null: JSON has no word for them. Times are seconds since
the epoch, steps count from 0.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trainvitals.diagnosis.finding import Finding
from trainvitals.wire import Place
from trainvitals_server.store import RunDetail, RunSummary
from trainvitals_server.store.results import Counts

Numbers = list[float | None]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the run list shows it."""

    id: str
    project: str
    name: str
    state: str
    started_at: float
    last_report_at: float
    ended_at: float | None
    step: int
    total_steps: int | None
    loss: float | None
    health: float | None
    headline: Finding | None
    findings: Counts
    sparkline: tuple[float | None, ...]
    step_rate: float | None
    tags: tuple[str, ...]
    attempt: int
    host: str
    overhead: float | None


class RunPage(msgspec.Struct, frozen=True):
    """Some runs, newest started first."""

    runs: list[Run]
    next_cursor: str | None
    """What to ask for next; null on the last page."""


class Metadata(msgspec.Struct, frozen=True):
    """What the process said of itself."""

    git_commit: str
    argv: tuple[str, ...]
    versions: dict[str, str]
    pid: int
    facts: dict[str, str | float | None]


class EventShape(msgspec.Struct, frozen=True):
    """Something that happened at a step."""

    step: int
    time: float
    kind: str
    text: str
    attributes: dict[str, str | float | None]


class DroppedShape(msgspec.Struct, frozen=True):
    """An interval of records that the trainer could not keep."""

    first_step: int
    last_step: int
    stream: str
    reason: str
    records: int


class RunWithDetail(Run, frozen=True, kw_only=True):
    """A run, and all that is known of it but its curves."""

    config: dict[str, Any]
    metadata: Metadata
    dropped: list[DroppedShape]
    not_watched: dict[str, str]
    events: list[EventShape]


class Findings(msgspec.Struct, frozen=True):
    """All findings of a run, ranked, open ones first."""

    findings: list[Finding]


class LayoutShape(msgspec.Struct, frozen=True):
    """The rows and columns of one stream."""

    stream: str
    statistics: tuple[str, ...]
    places: list[dict[str, Any]]


class Layouts(msgspec.Struct, frozen=True):
    """The newest layout of each stream."""

    streams: list[LayoutShape]


class Curve(msgspec.Struct, frozen=True):
    """One place's course in buckets; a bucket in which nothing was measured is left out."""

    place: str
    step: list[int]
    """First step of each bucket."""
    last_step: list[int]
    min: Numbers
    mean: Numbers
    max: Numbers
    last: Numbers
    nonfinite: list[int]
    """Infinite values in each bucket."""
    count: list[int]
    """Finite values in each bucket."""


class SeriesAnswer(msgspec.Struct, frozen=True):
    """Curves of one statistic."""

    stream: str
    statistic: str
    series: list[Curve]


class Heatmap(msgspec.Struct, frozen=True):
    """Means over finite values, one row a place, one column a bucket of steps."""

    stream: str
    statistic: str
    places: list[str]
    steps: list[int]
    values: list[Numbers]


class RuleName(msgspec.Struct, frozen=True):
    """A rule in the list."""

    code: str
    rule: str
    summary: str


class Rules(msgspec.Struct, frozen=True):
    """All rules."""

    rules: list[RuleName]


class Threshold(msgspec.Struct, frozen=True):
    """One threshold of a rule."""

    default: float
    meaning: str


class RulePage(msgspec.Struct, frozen=True):
    """A rule's page. Texts are Markdown."""

    code: str
    rule: str
    summary: str
    what_it_detects: str
    why_it_matters: str
    evidence: str
    what_to_do: str
    when_it_is_wrong: str
    references: str
    thresholds: dict[str, Threshold]


def run_of(summary: RunSummary) -> Run:
    """Return a summary as it is answered."""
    return Run(**_fields(summary))


def run_with_detail(summary: RunSummary, detail: RunDetail) -> RunWithDetail:
    """Return all that is known of a run."""
    return RunWithDetail(
        **_fields(summary),
        config=plain(detail.config),
        metadata=Metadata(
            detail.git_commit, detail.argv, detail.versions, detail.pid, plain(detail.facts)
        ),
        dropped=[_like(DroppedShape, dropped) for dropped in detail.dropped],
        not_watched=detail.not_watched,
        events=[_like(EventShape, event) for event in detail.events],
    )


def _fields(summary: RunSummary) -> dict[str, Any]:
    names = set(Run.__struct_fields__) - {"findings"}
    fields = {name: getattr(summary, name) for name in names}
    return {**fields, "findings": summary.counts}


def _like(shape: Any, record: Any) -> Any:
    """Return a record of the wire without its tag."""
    return shape(**{name: getattr(record, name) for name in shape.__struct_fields__})


def place_of(place: Place) -> dict[str, Any]:
    """Return a place with all its fields, those at their defaults too."""
    return {name: getattr(place, name) for name in Place.__struct_fields__}


def plain(value: Any, depth: int = 0) -> Any:
    """Return a user's structure as JSON can say it: what it cannot becomes text."""
    if depth > 32:
        return "…"
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return str(value)


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a 200 answer of type `kind`."""
    schema = msgspec.json.schema(kind, ref_template="#/components/schemas/{name}")
    return {"description": "OK", "content": {"application/json": {"schema": schema}}}
