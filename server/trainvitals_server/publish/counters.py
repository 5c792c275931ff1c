"""Counters and histograms of the ingest route: requests, records, bytes and times.

Comes in: one call for each request, from the ingest route.
Goes out: immutable copies for a scrape.
Promise:  thread-safe; the set of label values is fixed and does not depend on clients.
"""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from trainvitals.wire import Batch, Frame

OUTCOMES: Final = frozenset(
    {
        "stored",
        "duplicate",
        "malformed",
        "wire_version",
        "too_large",
        "unsupported_media_type",
        "unknown_layout",
        "shape_mismatch",
        "conflict",
        "run_deleted",
        "run_in_other_project",
        "unauthorised",
        "forbidden",
        "timeout",
        "host",
        "bad_request",
        "headers_too_large",
        "too_many_series",
        "invalid",
        "busy",
        "queue_full",
        "collector_full",
        "database_away",
        "disk_full",
        "internal",
        "error",
    }
)
"""Values of the label `outcome` of `ingest_requests_total`; other reasons count as "error".

Requests that are refused before their address is known (timeout, host, bad_request,
headers_too_large, busy) are counted here too, whatever address they were for."""

DURATION_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LAG_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
"""The buckets cover up to one hour, because spooled batches are sent long after their capture."""


@dataclass(frozen=True)
class Distribution:
    """An immutable copy of a histogram.

    `counts` has one non-cumulative count for each bucket, one entry more than `bounds`.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float
    """Sum of all observations."""

    def cumulated(self) -> list[tuple[str, float]]:
        """Return (upper bound, number of observations up to it), in Prometheus' format."""
        bounds = [*(f"{float(b)}" for b in self.bounds), "+Inf"]
        so_far, rows = 0, []
        for bound, count in zip(bounds, self.counts, strict=True):
            so_far += count
            rows.append((bound, float(so_far)))
        return rows


class Histogram:
    """Counts observations in fixed buckets. Thread-safe."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Add an observation; a bucket includes its upper bound."""
        at = bisect.bisect_left(self._bounds, value)
        with self._lock:
            self._counts[at] += 1
            self._total += value

    def read(self) -> Distribution:
        """Return an immutable copy."""
        with self._lock:
            return Distribution(self._bounds, tuple(self._counts), self._total)


@dataclass(frozen=True)
class IngestCounts:
    """An immutable copy of `IngestCounters`."""

    requests: Mapping[str, int] = field(default_factory=dict)
    """Number of requests by outcome."""
    records: int = 0
    bytes: int = 0
    lag: Distribution | None = None
    write: Distribution | None = None


@dataclass(frozen=True)
class RoundStats:
    """Statistics of the diagnosis rounds since this collector started."""

    rounds: int = 0
    runs: int = 0
    """Number of diagnosed runs, over all rounds."""
    errors: int = 0
    """Number of failed diagnoses and failed rounds; each failure is logged."""
    seconds: float = 0.0
    """Total duration of all rounds."""
    evaluation: Distribution | None = None
    """Duration of the evaluation of all rules on one run, in seconds."""
    findings: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Number of opened findings by (rule, severity)."""


class IngestCounters:
    """Counters of the ingest route since this collector started. Thread-safe."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._records = 0
        self._bytes = 0
        self._lag = Histogram(LAG_BUCKETS_S)
        self._write = Histogram(DURATION_BUCKETS_S)
        self._lock = threading.Lock()

    def accepted(self, batch: Batch, body_bytes: int, *, stored: bool, now: float) -> None:
        """Count an acknowledged batch; `stored` is false for a duplicate, which adds no records."""
        with self._lock:
            self._requests["stored" if stored else "duplicate"] += 1
            if not stored:
                return
            self._records += len(batch.records)
            self._bytes += body_bytes
        # The lag is negative when the training machine's clock is ahead; it counts as 0.
        self._lag.observe(max(0.0, now - captured_at(batch)))

    def refused(self, reason: str) -> None:
        """Count a request that was refused for `reason`."""
        with self._lock:
            self._requests[reason if reason in OUTCOMES else "error"] += 1

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Measure the duration of a transaction.

        Failed transactions are included, because a full disk is slow before it fails.
        """
        began = perf_counter()
        try:
            yield
        finally:
            self._write.observe(perf_counter() - began)

    def read(self) -> IngestCounts:
        """Return an immutable copy."""
        with self._lock:
            requests, records, bytes_ = dict(self._requests), self._records, self._bytes
        return IngestCounts(requests, records, bytes_, self._lag.read(), self._write.read())


def captured_at(batch: Batch) -> float:
    """Return the capture time of the newest step in `batch`; without frames, its send time."""
    times = [float(record.times[-1]) for record in batch.records if isinstance(record, Frame)]
    return max(times, default=batch.sent_at)
