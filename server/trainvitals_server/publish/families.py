"""Every metric family: its name, its labels, what it means and where its numbers come from.

`metrics.py` writes them out and docs/metrics.md is generated from this list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from trainvitals_server.publish.counters import Distribution
from trainvitals_server.publish.snapshot import RunView, Snapshot

STATES: Final = ("running", "lost", "finished", "failed", "stopped")
FINDINGS_MAX: Final = 24
"""Series of findings_active for one run, errors first."""

Sample = tuple[tuple[str, ...], float]
"""Label values (without project and run) and the number."""


@dataclass(frozen=True)
class Family:
    """One metric name. `name` is without the prefix, and a counter's without `_total`."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """Return the name as Prometheus shows it."""
        return f"trainvitals_{self.name}" + ("_total" if self.kind == "counter" else "")

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Return the names of all labels, in order."""
        return self.labels


@dataclass(frozen=True)
class RunFamily(Family):
    """A family with series for each run, labelled project and run first."""

    read: Callable[[RunView], Iterable[Sample]] = lambda _: ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Return the names of all labels, in order."""
        return ("project", "run", *self.labels)


@dataclass(frozen=True)
class CollectorFamily(Family):
    """A family of the collector as a whole."""

    read: Callable[[Snapshot], Iterable[Sample]] = lambda _: ()


@dataclass(frozen=True)
class HistogramFamily(Family):
    """A distribution over the whole life of this collector."""

    read: Callable[[Snapshot], Distribution | None] = lambda _: None


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [((), float(value))]


def _each(values: dict[str, float] | Iterable[tuple[str, float]]) -> list[Sample]:
    pairs = values.items() if isinstance(values, dict) else values
    return [((key,), float(value)) for key, value in pairs]


def _findings(run: RunView) -> list[Sample]:
    rank = {"error": 0, "warning": 1, "info": 2}
    by_rank = sorted(run.findings.items(), key=lambda item: (rank[item[0][1]], item[0]))
    return [(labels, float(count)) for labels, count in by_rank[:FINDINGS_MAX]]


RUN_FAMILIES: Final = (
    RunFamily(
        "run_info",
        "gauge",
        "Always 1: the host the run is on and its attempt, from 1.",
        ("host", "attempt"),
        read=lambda r: [((r.run.host, str(r.run.attempt)), 1.0)],
    ),
    RunFamily(
        "run_state",
        "gauge",
        "1 for the state of the run, 0 for the others: running, lost, finished, failed, stopped.",
        ("state",),
        read=lambda r: _each((s, float(s == r.run.state)) for s in STATES),
    ),
    RunFamily(
        "run_step",
        "gauge",
        "The last optimizer step seen, counted from 0; absent before the first.",
        read=lambda r: _one(r.run.step if r.run.step >= 0 else None),
    ),
    RunFamily(
        "run_planned_steps",
        "gauge",
        "The optimizer steps the run plans to make; absent when unknown.",
        read=lambda r: _one(r.run.total_steps),
    ),
    RunFamily(
        "run_last_report_timestamp_seconds",
        "gauge",
        "Time of the run's last report, by the collector's clock.",
        read=lambda r: _one(r.run.last_report_at),
    ),
    RunFamily(
        "run_health",
        "gauge",
        "0 (broken) to 1 (nothing found); absent before the first diagnosis.",
        read=lambda r: _one(r.run.health),
    ),
    RunFamily(
        "findings_active",
        "gauge",
        "Open findings of the run: the places at which the rule fires now.",
        ("rule", "severity"),
        read=_findings,
    ),
    RunFamily(
        "run_loss",
        "gauge",
        "The newest loss by split; NaN when the newest step's was not finite.",
        ("split",),
        read=lambda r: _each(r.vitals.loss.items()),
    ),
    RunFamily(
        "run_gradient_norm",
        "gauge",
        "Total L2 norm of the gradients as the optimizer read them, unscaled and after clipping; "
        "NaN when one was not finite.",
        read=lambda r: _one(r.vitals.gradient_norm),
    ),
    RunFamily(
        "run_update_ratio",
        "gauge",
        "Median over the weight tensors of RMS(update) over RMS(weight); healthy around 1e-3.",
        read=lambda r: _one(r.vitals.update_ratio),
    ),
    RunFamily(
        "run_learning_rate",
        "gauge",
        "Learning rate of each parameter group, numbered from 0.",
        ("group",),
        read=lambda r: _each(r.vitals.learning_rate.items()),
    ),
    RunFamily(
        "run_loss_scale",
        "gauge",
        "The gradient scaler's factor; absent without mixed precision.",
        read=lambda r: _one(r.vitals.loss_scale),
    ),
    RunFamily(
        "run_step_duration_seconds",
        "gauge",
        "Median wall-clock time of the newest 32 steps.",
        read=lambda r: _one(r.vitals.step_time_s),
    ),
    RunFamily(
        "run_capture_overhead_ratio",
        "gauge",
        "What watching costs: CPU time of trainvitals over step time, in the newest batches.",
        # The run list's number, so that every screen says the same; but only while it is fresh.
        read=lambda r: _one(r.run.overhead if r.vitals.step >= 0 else None),
    ),
    RunFamily(
        "run_nonfinite_values",
        "counter",
        "Micro-batch losses (kind loss) and gradient tensors (kind gradient) that were NaN or "
        "infinite.",
        ("kind",),
        read=lambda r: _each((k, float(v)) for k, v in r.vitals.nonfinite.items()),
    ),
)

COLLECTOR_FAMILIES: Final[tuple[CollectorFamily | HistogramFamily, ...]] = (
    CollectorFamily(
        "build_info",
        "gauge",
        "Always 1: the collector's version.",
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
        "Diagnosis rounds made.",
        read=lambda s: _one(s.rounds.rounds),
    ),
    CollectorFamily(
        "round_errors",
        "counter",
        "Diagnoses and whole rounds that failed; the collector's log says why.",
        read=lambda s: _one(s.rounds.errors),
    ),
    HistogramFamily(
        "rule_evaluation_duration_seconds",
        "histogram",
        "Time to examine one run with all rules.",
        read=lambda s: s.rounds.evaluation,
    ),
    CollectorFamily(
        "ingest_requests",
        "counter",
        "Batches received, by outcome: stored, duplicate, or the reason they were refused.",
        ("outcome",),
        read=lambda s: _each((k, float(v)) for k, v in sorted(s.ingest.requests.items())),
    ),
    CollectorFamily(
        "ingest_records",
        "counter",
        "Records stored.",
        read=lambda s: _one(s.ingest.records),
    ),
    CollectorFamily(
        "ingest_bytes",
        "counter",
        "Bytes of the batches stored.",
        read=lambda s: _one(s.ingest.bytes),
    ),
    HistogramFamily(
        "ingest_lag_seconds",
        "histogram",
        "From the capture of a batch's newest step to its acknowledgement.",
        read=lambda s: s.ingest.lag,
    ),
    HistogramFamily(
        "storage_write_duration_seconds",
        "histogram",
        "From handing a batch to the store until it was committed and synced.",
        read=lambda s: s.ingest.write,
    ),
    CollectorFamily(
        "storage_bytes",
        "gauge",
        "Size of the database on disk.",
        read=lambda s: _one(s.storage_bytes),
    ),
    CollectorFamily(
        "queue_bytes",
        "gauge",
        "Bytes of batches that wait to be written.",
        read=lambda s: _one(s.queue_bytes),
    ),
    CollectorFamily(
        "client_dropped_records",
        "counter",
        "Records that training processes dropped, by reason.",
        ("reason",),
        read=lambda s: _each((k, float(v)) for k, v in sorted(s.dropped.items())),
    ),
)

LEFT_OUT: Final = CollectorFamily(
    "runs_left_out",
    "gauge",
    "Runs without series in this scrape, because there would be more than 20,000.",
)
