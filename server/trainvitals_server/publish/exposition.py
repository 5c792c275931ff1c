"""Answer a scrape: from the Accept header to the response body.

Comes in: the Accept header of the request.
Goes out: the response body and its content type.
Promise:  the load on the database does not grow with the number of scrapes: scrapes within one
          second share a snapshot, and the totals, which count rows, are read every 30 s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from time import time as wall_clock
from typing import Final, Protocol

from prometheus_client import exposition, openmetrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS

from trainvitals.metrics.layers import Detail
from trainvitals.metrics.vitals import Measured
from trainvitals_server.publish.counters import IngestCounters, RoundStats
from trainvitals_server.publish.metrics import SERIES_MAX, registry_of
from trainvitals_server.publish.snapshot import Snapshot, SnapshotStore, gather
from trainvitals_server.store.types import Totals

SNAPSHOT_S: Final = 1.0
TOTALS_S: Final = 30.0


class PublisherStore(SnapshotStore, Protocol):
    """The interface that a scrape needs from the store, including the totals."""

    def totals(self) -> Totals: ...


class PublisherRounds(Protocol):
    """The interface that a scrape needs from the diagnosis rounds."""

    def stats(self) -> RoundStats: ...
    def measured(self) -> dict[int, Measured]: ...


class Publisher:
    """Produces the response of /metrics. Each app has one; thread-safe."""

    def __init__(
        self,
        store: PublisherStore,
        rounds: PublisherRounds,
        counters: IngestCounters,
        *,
        queue_bytes: Callable[[], int] | None = None,
        series_max: int = SERIES_MAX,
        detail: Detail = "run",
        notifications: Callable[[], Mapping[tuple[str, str], int]] | None = None,
        now: Callable[[], float] = wall_clock,
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._counters = counters
        self._queue_bytes = queue_bytes
        self._detail = detail
        self._notifications = notifications
        self._now = now
        self._version = version("trainvitals")
        self._registry = registry_of(self.snapshot, series_max=series_max)
        self._lock = threading.Lock()
        self._snapshot: tuple[float, Snapshot] | None = None
        self._totals: tuple[float, Totals] | None = None

    def snapshot(self) -> Snapshot:
        """Return a snapshot that is less than a second old."""
        with self._lock:
            now = self._now()
            if self._snapshot is None or not 0 <= now - self._snapshot[0] < SNAPSHOT_S:
                self._snapshot = now, self._gather(now)
            return self._snapshot[1]

    def expose(self, accept: str | None) -> tuple[bytes, str]:
        """Return (body, content type): OpenMetrics if `accept` names it, else classic text."""
        # Not prometheus-client's choose_encoder: it copies the version from the client's Accept
        # header into the response header without checking it.
        if "application/openmetrics-text" in (accept or ""):
            # This function of prometheus-client has no type annotations.
            body = openmetrics.exposition.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return body, OPENMETRICS
        return exposition.generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def _gather(self, now: float) -> Snapshot:
        if self._totals is None or not 0 <= now - self._totals[0] < TOTALS_S:
            self._totals = now, self._store.totals()
        return gather(
            self._store,
            self._totals[1],
            version=self._version,
            rounds=self._rounds.stats(),
            measured=self._rounds.measured(),
            ingest=self._counters.read(),
            now=now,
            queue_bytes=self._queue_bytes() if self._queue_bytes else None,
            detail=self._detail,
            notifications=self._notifications() if self._notifications else None,
        )
