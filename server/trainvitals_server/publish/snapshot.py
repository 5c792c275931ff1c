"""Read all values of one scrape into an immutable snapshot.

Comes in: the store's run list, findings and totals; the diagnosis rounds; the ingest counters.
Goes out: an immutable `Snapshot`.
Promise:  the snapshot omits runs that ended more than ENDED_FOR_S ago, lost runs without a report
          for more than LOST_FOR_S, and measured values older than AGE_MAX_S.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from trainvitals.api.schema import Run
from trainvitals.metrics.families import RunView
from trainvitals.metrics.layers import Detail
from trainvitals.metrics.vitals import AGE_MAX_S, Measured, Vitals
from trainvitals_server.publish.counters import IngestCounts, RoundStats
from trainvitals_server.store.types import StoredRun, Totals

ENDED_FOR_S: Final = 600.0
"""An ended run is exported for this time, so that a scrape reads its final state."""
LOST_FOR_S: Final = 86_400.0
"""A lost run is exported for this time after its last report, so that its alert keeps firing."""
RUNS_MAX: Final = 2000
"""Maximum number of runs read per state in one scrape, newest start first."""
PAGE: Final = 500
DROP_REASONS: Final = frozenset({"queue_full", "spool_full", "spool_lost", "no_disk", "rejected"})
"""Other reasons from clients count as "other", so that a client cannot create label values."""


class SnapshotStore(Protocol):
    """The interface that a snapshot needs from the store."""

    def run_summaries(
        self,
        *,
        project: str | None = None,
        state: str | None = None,
        search: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[StoredRun], str | None]: ...
    def run_by_key(self, run_pk: int) -> StoredRun | None: ...
    def open_findings(
        self, run_pks: Sequence[int]
    ) -> Mapping[int, Mapping[tuple[str, str], int]]: ...


@dataclass(frozen=True)
class Snapshot:
    """The values of the collector and its runs at one time."""

    version: str
    runs: tuple[RunView, ...] = ()
    """Running runs first, then by newest report."""
    rounds: RoundStats = field(default_factory=RoundStats)
    ingest: IngestCounts = field(default_factory=IngestCounts)
    storage_bytes: int | None = None
    queue_bytes: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Number of records that trainers dropped, by reason."""
    notifications: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Number of attempts to deliver a message, by (channel, outcome)."""


def gather(
    store: SnapshotStore,
    totals: Totals,
    *,
    version: str,
    rounds: RoundStats,
    measured: Mapping[int, Measured],
    ingest: IngestCounts,
    now: float,
    queue_bytes: int | None = None,
    detail: Detail = "run",
    notifications: Mapping[tuple[str, str], int] | None = None,
) -> Snapshot:
    """Return the snapshot at the time `now`, in seconds since the epoch.

    `detail`: whether it contains values of blocks or of single layers.
    """
    shown = list(_shown(store, measured, now))
    findings = store.open_findings([stored.pk for stored in shown])
    views = [
        RunView(
            stored.run,
            _recent(stored.run, measured.get(stored.pk), now, detail),
            findings.get(stored.pk, {}),
        )
        for stored in shown
    ]
    views.sort(key=lambda v: (v.run.state != "running", -v.run.last_report_at))
    dropped: Counter[str] = Counter()
    for reason, records in totals.dropped.items():
        dropped[reason if reason in DROP_REASONS else "other"] += records
    return Snapshot(
        version=version,
        runs=tuple(views),
        rounds=rounds,
        ingest=ingest,
        storage_bytes=totals.bytes,
        queue_bytes=queue_bytes,
        dropped=dropped,
        notifications=notifications or {},
    )


def _shown(
    store: SnapshotStore, measured: Mapping[int, Measured], now: float
) -> Iterator[StoredRun]:
    """Yield the runs of the snapshot: running, recently lost and recently ended runs."""
    seen: set[int] = set()
    for state in ("running", "lost"):
        for stored in _in_state(store, state):
            seen.add(stored.pk)
            if state == "running" or now - stored.run.last_report_at <= LOST_FOR_S:
                yield stored
    # The end of a run starts a last diagnosis round, so `measured` contains all recently ended
    # runs.
    for pk in measured.keys() - seen:
        ended = store.run_by_key(pk)
        if ended is None or ended.run.ended_at is None:
            continue
        # Use the collector's clock: `ended_at` is on the trainer's clock, which can be hours off.
        if now - ended.run.last_report_at <= ENDED_FOR_S:
            yield ended


def _in_state(store: SnapshotStore, state: str) -> Iterator[StoredRun]:
    cursor: str | None = None
    for _ in range(RUNS_MAX // PAGE):
        page, cursor = store.run_summaries(state=state, limit=PAGE, cursor=cursor)
        yield from page
        if cursor is None:
            return


def _recent(run: Run, measured: Measured | None, now: float, detail: Detail) -> Vitals:
    if measured is None or now - min(measured.at, run.last_report_at) > AGE_MAX_S:
        return Vitals()
    return replace(measured.vitals, layers=measured.vitals.layers.at(detail))
