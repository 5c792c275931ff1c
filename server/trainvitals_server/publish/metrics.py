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

from trainvitals.metrics.exposed import add, add_run, metric_of, samples_of
from trainvitals.metrics.families import RUN_FAMILIES, Family
from trainvitals_server.publish.counters import Distribution
from trainvitals_server.publish.families import (
    COLLECTOR_FAMILIES,
    LEFT_OUT,
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
    mine = [metric_of(family) for family in COLLECTOR_FAMILIES]
    for metric, family in zip(mine, COLLECTOR_FAMILIES, strict=True):
        if isinstance(family, HistogramFamily):
            _add_distribution(metric, family.read(snapshot))
        else:
            for labels, value in family.read(snapshot):
                add(metric, family, labels, value)
    room = series_max - sum(len(metric.samples) for metric in mine) - 1
    theirs = {family.name: metric_of(family) for family in RUN_FAMILIES}
    left_out = 0
    for run in snapshot.runs:
        samples = samples_of(run)
        if len(samples) > room:
            left_out += 1
            continue
        room -= len(samples)
        add_run(theirs, run, samples)
    mine.append(metric_of(LEFT_OUT))
    add(mine[-1], LEFT_OUT, (), float(left_out))
    yield from (metric for metric in (*mine, *theirs.values()) if metric.samples)


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
        '`metrics_detail` (`TRAINVITALS_METRICS_DETAIL`) those of its worst layers (`"layer"`) or '
        'blocks (`"group"`), at most 61, and `metrics_scalars = ["accuracy"]` '
        "(`TRAINVITALS_METRICS_SCALARS`) at most 8 scalars that the training logged.\n\n"
        "A training process can serve the metrics of its own run, without a collector: "
        "`TRAINVITALS_METRICS_PORT=9464`, or `metrics_port = 9464` in `trainvitals.toml`, serves "
        "the families of the first table at `http://127.0.0.1:9464/metrics`; with several "
        "processes on a machine, each at this port plus its local rank. It needs the package "
        "`prometheus-client`, has no token, and listens on loopback only: each user of the "
        "machine can read it. `host` is the machine, `attempt` is always 1, and the series of "
        "layers, blocks and logged scalars are only at the collector. A port that is in use "
        "causes one warning, and the training goes on. When the run is closed, the port is too. It "
        "costs at most 0.5 % of a core, in the thread of the diagnosis (5 ms for a model of 200 "
        "tensors, once a second), and 0.3 ms for a scrape; all of it counts as overhead.\n\n"
        f"## Metrics of each run\n\n{table(RUN_FAMILIES)}\n\n"
        f"## Metrics of the collector\n\n{table((*COLLECTOR_FAMILIES, LEFT_OUT))}\n"
    )


if __name__ == "__main__":
    sys.stdout.write(page())
