"""Counters and histograms of the ingest route: requests, records, bytes and times.

Comes in: one call for each request, from the ingest route.
Goes out: immutable copies for a scrape.
Promise:  thread-safe; the set of label values is fixed and does not depend on clients.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter, Histogram

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
        "damaged",
        "database_away",
        "disk_full",
        "rescue",
        "internal",
        "error",
    }
)
"""Values of the label `outcome` of `ingest_requests_total`; other reasons count as "error".

Requests that are refused before their address is known (timeout, host, bad_request,
headers_too_large, busy) are counted here too, for any address."""

DURATION_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
DISK_FULL_S: Final = 60.0
"""How long a full disk is assumed after a refusal; a trainer sends again within this time."""
LAG_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
"""The buckets cover up to one hour, because spooled batches are sent long after their capture."""


@dataclass(frozen=True)
class Distribution:
    """An immutable copy of a histogram, in Prometheus' format."""

    buckets: tuple[tuple[str, float], ...]
    """(upper bound, number of observations up to and including it); the last bound is "+Inf"."""
    total: float
    """Sum of all observations."""

    @property
    def count(self) -> float:
        """Return the number of observations."""
        return self.buckets[-1][1]


def histogram(bounds_s: Sequence[float]) -> Histogram:
    """Return an empty histogram in no registry, because each app has its own."""
    return Histogram("seconds", "Times in seconds.", registry=None, buckets=bounds_s)


def distribution(of: Histogram) -> Distribution:
    """Return a copy of what a histogram without labels has counted so far."""
    samples = [sample for metric in of.collect() for sample in metric.samples]
    buckets = tuple((s.labels["le"], s.value) for s in samples if s.name.endswith("_bucket"))
    [total] = [s.value for s in samples if s.name.endswith("_sum")]
    return Distribution(buckets, total)


def _counter(what: str, *labels: str) -> Counter:
    return Counter(what, f"Number of {what}.", labels, registry=None)


def _counts(of: Counter) -> list[tuple[dict[str, str], int]]:
    """Return (labels, count) for each series of a counter."""
    samples = [sample for metric in of.collect() for sample in metric.samples]
    return [(s.labels, int(s.value)) for s in samples if s.name.endswith("_total")]


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
        self._requests = _counter("requests", "outcome")
        self._records = _counter("records")
        self._bytes = _counter("bytes")
        self._lag = histogram(LAG_BUCKETS_S)
        self._write = histogram(DURATION_BUCKETS_S)
        self._disk_full_at = -float("inf")

    def accepted(self, batch: Batch, body_bytes: int, *, stored: bool, now: float) -> None:
        """Count an acknowledged batch; `stored` is false for a duplicate, which adds no records."""
        self._requests.labels("stored" if stored else "duplicate").inc()
        if not stored:
            return
        self._disk_full_at = -float("inf")
        self._records.inc(len(batch.records))
        self._bytes.inc(body_bytes)
        # The lag is negative when the training machine's clock is ahead; it counts as 0.
        self._lag.observe(max(0.0, now - captured_at(batch)))

    def refused(self, reason: str) -> None:
        """Count a request that was refused for `reason`."""
        self._requests.labels(reason if reason in OUTCOMES else "error").inc()
        if reason == "disk_full":
            self._disk_full_at = time.monotonic()

    @property
    def disk_full(self) -> bool:
        """Whether a full disk refused a batch in the last minute, and none was stored since."""
        return time.monotonic() - self._disk_full_at < DISK_FULL_S

    def writing(self) -> AbstractContextManager[object]:
        """Measure the duration of a transaction.

        Failed transactions are included, because a full disk is slow before it fails.
        """
        return self._write.time()

    def read(self) -> IngestCounts:
        """Return an immutable copy."""
        return IngestCounts(
            {labels["outcome"]: count for labels, count in _counts(self._requests)},
            sum(count for _, count in _counts(self._records)),
            sum(count for _, count in _counts(self._bytes)),
            distribution(self._lag),
            distribution(self._write),
        )


def captured_at(batch: Batch) -> float:
    """Return the capture time of the newest step in `batch`; without frames, its send time."""
    times = [float(record.times[-1]) for record in batch.records if isinstance(record, Frame)]
    return max(times, default=batch.sent_at)
