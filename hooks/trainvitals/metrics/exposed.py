"""Convert families to the metrics of prometheus-client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client.core import Metric

from trainvitals.metrics.families import RUN_FAMILIES, Family, RunFamily, RunView, Sample


def metric_of(family: Family) -> Metric:
    """Return the metric of a family, without samples."""
    return Metric(f"trainvitals_{family.name}", family.help, family.kind)


def add(metric: Metric, family: Family, labels: tuple[str, ...], value: float) -> None:
    """Add a sample; `labels` are the values of all labels, in order."""
    metric.add_sample(family.full_name, dict(zip(family.all_labels, labels, strict=True)), value)


def samples_of(view: RunView) -> list[tuple[RunFamily, Sample]]:
    """Return all samples of a run."""
    return [(family, sample) for family in RUN_FAMILIES for sample in family.read(view)]


def add_run(
    metrics: Mapping[str, Metric], view: RunView, samples: Sequence[tuple[RunFamily, Sample]]
) -> None:
    """Add the samples of a run; `metrics` maps the name of each family to its metric."""
    identity = (view.run.project, view.run.id)
    for family, (labels, value) in samples:
        add(metrics[family.name], family, (*identity, *labels), value)
