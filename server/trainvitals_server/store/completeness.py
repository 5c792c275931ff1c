"""Whether all records of a run are stored: produced = stored + waiting + dropped.

Comes in: the counts of the run's sources. Goes out: `schema.Completeness`.
`produced` and `dropped` are known when a source has reported its end; waiting and lost records
cannot be distinguished, so both count as `missing`.
Start at `completeness`; `judged` is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from trainvitals.api.schema import Completeness
from trainvitals_server.store.models import DroppedRow, Source, Track


@dataclass(frozen=True)
class RecordCounts:
    """The records of one source."""

    host: str
    ended: bool
    stored: int | None
    """None when a batch did not state how many records it has."""
    produced: int
    """0 before the source has ended."""
    dropped: int
    """Of an ended source, its own count; before, the sum of its reports."""

    @property
    def missing(self) -> int | None:
        """Number of produced records that neither arrived nor were reported as dropped."""
        if not self.ended or self.stored is None:
            return None
        return max(0, self.produced - self.stored - self.dropped)


def completeness(connection: sa.Connection, run_pk: int, state: str) -> Completeness:
    """Return whether all records of a run are stored."""
    reports = (
        sa.select(DroppedRow.source_pk, sa.func.sum(DroppedRow.records))
        .where(DroppedRow.run_pk == run_pk)
        .group_by(DroppedRow.source_pk)
    )
    reported = {row[0]: int(row[1]) for row in connection.execute(reports)}
    columns = (
        Source.pk,
        Source.host,
        Source.ended,
        Source.records,
        Source.produced,
        Source.dropped,
    )
    rows = connection.execute(sa.select(*columns).where(Source.run_pk == run_pk))
    sources = [
        RecordCounts(
            row.host,
            row.ended,
            row.records,
            row.produced,
            row.dropped if row.ended else reported.get(row.pk, 0),
        )
        for row in rows
    ]
    thinned = (
        sa.select(sa.func.sum(Track.thinned_rows))
        .join(Source, Source.pk == Track.source_pk)
        .where(Source.run_pk == run_pk)
    )
    found = judged(sources, running=state == "running")
    return msgspec.structs.replace(found, thinned=int(connection.scalar(thinned) or 0))


def judged(sources: Sequence[RecordCounts], *, running: bool) -> Completeness:
    """Return the completeness of a run with these sources."""
    stored = [source.stored for source in sources]
    missing = [source.missing for source in sources]
    dropped = sum(source.dropped for source in sources)
    complete, reason = _verdict(sources, dropped, running=running)
    return Completeness(
        complete=complete,
        stored=None if None in stored else sum(n for n in stored if n is not None),
        dropped=dropped,
        missing=None if None in missing else sum(n for n in missing if n is not None),
        reason=reason,
    )


def _verdict(
    sources: Sequence[RecordCounts], dropped: int, *, running: bool
) -> tuple[bool | None, str]:
    if running:
        return None, "The run has not ended."
    gaps = list(_gaps(sources, dropped))
    if gaps:
        return False, " ".join(gaps)
    if any(source.stored is None for source in sources):
        return None, "A process of an older version did not send the counts of its records."
    return True, ""


def _gaps(sources: Sequence[RecordCounts], dropped: int) -> list[str]:
    gaps = []
    if dropped:
        gaps.append(f"{_records(dropped)} dropped by the training process.")
    late = [source for source in sources if source.missing]
    if late:
        count = sum(source.missing or 0 for source in late)
        gaps.append(
            f"{_records(count)} not delivered. `trainvitals sync` on {_hosts(late)} sends what is "
            "on disk there."
        )
    open_ended = [source for source in sources if not source.ended]
    if open_ended:
        gaps.append(
            f"{len(open_ended)} of {len(sources)} processes did not report the end, so the number "
            f"of their records is not known. `trainvitals sync` on {_hosts(open_ended)} sends what "
            "is on disk there."
        )
    return gaps


def _records(count: int) -> str:
    return f"{count:,} record was" if count == 1 else f"{count:,} records were"


def _hosts(sources: Sequence[RecordCounts]) -> str:
    hosts = sorted({source.host for source in sources if source.host})
    if not hosts:
        return "the training machine"
    return ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
