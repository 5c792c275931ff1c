"""Every metric family of the collector itself: its name, labels, help text and source.

Those of each run are in `trainvitals.metrics.families`. `metrics.py` converts the families for
prometheus-client and generates docs/metrics.md from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from trainvitals.metrics.families import Family, Sample, each, one
from trainvitals_server.publish.counters import Distribution
from trainvitals_server.publish.snapshot import Snapshot


@dataclass(frozen=True)
class CollectorFamily(Family):
    """A family of the collector as a whole."""

    read: Callable[[Snapshot], Iterable[Sample]] = lambda _: ()


@dataclass(frozen=True)
class HistogramFamily(Family):
    """A histogram of the collector, with all observations since it started."""

    read: Callable[[Snapshot], Distribution | None] = lambda _: None


COLLECTOR_FAMILIES: Final[tuple[CollectorFamily | HistogramFamily, ...]] = (
    CollectorFamily(
        "build_info",
        "gauge",
        "Always 1; the label is the collector's version.",
        ("version",),
        read=lambda s: [((s.version,), 1.0)],
    ),
    CollectorFamily(
        "findings",
        "counter",
        "Findings opened since this collector started, including resolved ones.",
        ("rule", "severity"),
        read=lambda s: [(labels, float(n)) for labels, n in sorted(s.rounds.findings.items())],
    ),
    CollectorFamily(
        "rounds",
        "counter",
        "Number of diagnosis rounds.",
        read=lambda s: one(s.rounds.rounds),
    ),
    CollectorFamily(
        "round_errors",
        "counter",
        "Failed diagnoses and failed rounds; the collector's log contains the reasons.",
        read=lambda s: one(s.rounds.errors),
    ),
    HistogramFamily(
        "rule_evaluation_duration_seconds",
        "histogram",
        "Time to evaluate all rules on one run.",
        read=lambda s: s.rounds.evaluation,
    ),
    CollectorFamily(
        "ingest_requests",
        "counter",
        "Received batches by outcome: stored, duplicate, or the reason for the refusal.",
        ("outcome",),
        read=lambda s: each((k, float(v)) for k, v in sorted(s.ingest.requests.items())),
    ),
    CollectorFamily(
        "ingest_records",
        "counter",
        "Number of stored records.",
        read=lambda s: one(s.ingest.records),
    ),
    CollectorFamily(
        "ingest_bytes",
        "counter",
        "Size of the stored batches in bytes.",
        read=lambda s: one(s.ingest.bytes),
    ),
    HistogramFamily(
        "ingest_lag_seconds",
        "histogram",
        "Time from the capture of a batch's newest step to the batch's acknowledgement.",
        read=lambda s: s.ingest.lag,
    ),
    HistogramFamily(
        "storage_write_duration_seconds",
        "histogram",
        "Time to write a batch, from the call of the store to the synced commit.",
        read=lambda s: s.ingest.write,
    ),
    CollectorFamily(
        "storage_bytes",
        "gauge",
        "Size of the database on disk.",
        read=lambda s: one(s.storage_bytes),
    ),
    CollectorFamily(
        "queue_bytes",
        "gauge",
        "Size of the batches in the write queue in bytes.",
        read=lambda s: one(s.queue_bytes),
    ),
    CollectorFamily(
        "notifications",
        "counter",
        "Attempts to deliver a message, by channel of the settings and outcome: sent, failed "
        "(repeated later), given_up.",
        ("channel", "outcome"),
        read=lambda s: [(labels, float(n)) for labels, n in sorted(s.notifications.items())],
    ),
    CollectorFamily(
        "client_dropped_records",
        "counter",
        "Number of records that training processes dropped, by reason.",
        ("reason",),
        read=lambda s: each((k, float(v)) for k, v in sorted(s.dropped.items())),
    ),
)

LEFT_OUT: Final = CollectorFamily(
    "runs_left_out",
    "gauge",
    "Number of runs that this scrape omits because of the limit of 20,000 series.",
)
