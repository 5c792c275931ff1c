"""Convert a snapshot to metric families, with a limit on series; generate docs/metrics.md.

Comes in: a function that returns a `Snapshot`.
Goes out: the metric families for prometheus-client's registry.
Promise:  no global registry, no explicit timestamps, at most SERIES_MAX series. Runs over the
          limit are omitted, those with the oldest reports first, and counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from trainvitals_server.publish.counters import Distribution
from trainvitals_server.publish.families import (
    COLLECTOR_FAMILIES,
    LEFT_OUT,
    RUN_FAMILIES,
    Family,
    HistogramFamily,
)
from trainvitals_server.publish.snapshot import Snapshot

SERIES_MAX: Final = 20_000


class SnapshotCollector(Collector):
    """Passes the families of a snapshot to prometheus-client at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot], *, series_max: int = SERIES_MAX) -> None:
        self._snapshot = snapshot
        self._series_max = series_max

    def describe(self) -> Iterator[Metric]:
        """Yield nothing, so that registration does not read a snapshot."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the families that have at least one series."""
        return families(self._snapshot(), self._series_max)


def registry_of(
    snapshot: Callable[[], Snapshot], *, series_max: int = SERIES_MAX
) -> CollectorRegistry:
    """Return a new registry for one app; the global registry is not used."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot, series_max=series_max))
    return registry


def families(snapshot: Snapshot, series_max: int = SERIES_MAX) -> Iterator[Metric]:
    """Yield the families with at least one series, with at most `series_max` series in total."""
    mine = [_metric(family) for family in COLLECTOR_FAMILIES]
    for metric, family in zip(mine, COLLECTOR_FAMILIES, strict=True):
        if isinstance(family, HistogramFamily):
            _add_distribution(metric, family.read(snapshot))
        else:
            for labels, value in family.read(snapshot):
                _add(metric, family, labels, value)
    room = series_max - sum(len(metric.samples) for metric in mine) - 1
    theirs = {family.name: _metric(family) for family in RUN_FAMILIES}
    left_out = 0
    for run in snapshot.runs:
        samples = [(family, sample) for family in RUN_FAMILIES for sample in family.read(run)]
        if len(samples) > room:
            left_out += 1
            continue
        room -= len(samples)
        identity = (run.run.project, run.run.id)
        for run_family, (labels, value) in samples:
            _add(theirs[run_family.name], run_family, (*identity, *labels), value)
    mine.append(_metric(LEFT_OUT))
    _add(mine[-1], LEFT_OUT, (), float(left_out))
    yield from (metric for metric in (*mine, *theirs.values()) if metric.samples)


def _metric(family: Family) -> Metric:
    return Metric(f"trainvitals_{family.name}", family.help, family.kind)


def _add(metric: Metric, family: Family, labels: tuple[str, ...], value: float) -> None:
    metric.add_sample(family.full_name, dict(zip(family.all_labels, labels, strict=True)), value)


def _add_distribution(metric: Metric, distribution: Distribution | None) -> None:
    if distribution is None:
        return
    for bound, count in distribution.buckets:
        metric.add_sample(f"{metric.name}_bucket", {"le": bound}, count)
    metric.add_sample(f"{metric.name}_count", {}, distribution.count)
    metric.add_sample(f"{metric.name}_sum", {}, distribution.total)


def page() -> str:
    """Return docs/metrics.md."""

    def table(rows: tuple[Family, ...]) -> str:
        lines = [
            f"| `{f.full_name}` | {f.kind} | {', '.join(f.all_labels) or '–'} | {f.help} |"
            for f in rows
        ]
        return "\n".join(["| name | type | labels | meaning |", "|---|---|---|---|", *lines])

    return (
        "<!-- written by `trainvitals_server.publish.metrics.page` -->\n"
        "# Metrics\n\n"
        "The collector serves its metrics at `GET /metrics`, in OpenMetrics or in the classic "
        "text format, depending on the Accept header. The request needs a token with the scope "
        "read. Samples have no timestamp. Unknown values and measured values older than five "
        "minutes are absent. The series of a run are removed ten minutes after it ended, or one "
        f"day after its last report. A response has at most {SERIES_MAX:,} series; runs over the "
        "limit are omitted, those with the oldest reports first, and counted.\n\n"
        "Counters start at 0 when the collector starts, as Prometheus expects. When several "
        "collectors share one Postgres database, each of them exports all runs: use "
        "`max by (project, run)`.\n\n"
        "A run has at most 60 series. Two settings of the collector add series: "
        '`metrics_detail = "layer"` (`TRAINVITALS_METRICS_DETAIL`) those of its worst layers, at '
        'most 61, and `metrics_scalars = ["accuracy"]` (`TRAINVITALS_METRICS_SCALARS`) at most 8 '
        "scalars that the training logged.\n\n"
        f"## Metrics of each run\n\n{table(RUN_FAMILIES)}\n\n"
        f"## Metrics of the collector\n\n{table((*COLLECTOR_FAMILIES, LEFT_OUT))}\n"
    )


if __name__ == "__main__":
    sys.stdout.write(page())
