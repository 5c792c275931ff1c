"""Every metric family of a run: its name, labels, help text and the source of its values.

The collector serves them for all runs, a training process for its own run, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from trainvitals.api.schema import Run
from trainvitals.metrics.layers import LAYERS_MAX, Layer
from trainvitals.metrics.vitals import Vitals

STATES: Final = ("running", "lost", "finished", "failed", "stopped")
FINDINGS_MAX: Final = 20
"""Maximum number of series of findings_active for one run; errors come first."""

WORST: Final = (
    f"only with metrics_detail = layer, for the {LAYERS_MAX} layers that are farthest from "
    "healthy: non-finite or zero gradients first, then by the distance of the update ratio from "
    "1e-3."
)

BLOCK: Final = (
    f"only with metrics_detail = group, for the {LAYERS_MAX} blocks that are farthest from "
    "healthy. A block is a repeated part of the model, such as encoder.layers.3."
)

Sample = tuple[tuple[str, ...], float]
"""Label values (without project and run) and the sample's value."""


@dataclass(frozen=True)
class RunView:
    """The values of one run at one time."""

    run: Run
    vitals: Vitals = field(default_factory=Vitals)
    """Empty when the newest measured values are older than AGE_MAX_S."""
    findings: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Number of open findings by (rule, severity)."""


@dataclass(frozen=True)
class Family:
    """One metric family. `name` has no prefix, and no `_total` suffix for a counter."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """Return the metric name in Prometheus."""
        return f"trainvitals_{self.name}" + ("_total" if self.kind == "counter" else "")

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Return the names of all labels, in order."""
        return self.labels


@dataclass(frozen=True)
class RunFamily(Family):
    """A family with series for each run; its first labels are `project` and `run`."""

    read: Callable[[RunView], Iterable[Sample]] = lambda _: ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Return the names of all labels, in order."""
        return ("project", "run", *self.labels)


def one(value: float | None) -> list[Sample]:
    """Return the sample without labels; none when the value is unknown."""
    return [] if value is None else [((), float(value))]


def each(values: dict[str, float] | Iterable[tuple[str, float]]) -> list[Sample]:
    """Return one sample for each value of a label."""
    pairs = values.items() if isinstance(values, dict) else values
    return [((key,), float(value)) for key, value in pairs]


def _of(layers: Iterable[Layer], value: Callable[[Layer], float | None]) -> list[Sample]:
    pairs = [(layer.name, value(layer)) for layer in layers]
    return [((name,), number) for name, number in pairs if number is not None]


def _findings(run: RunView) -> list[Sample]:
    rank = {"error": 0, "warning": 1, "info": 2}
    by_rank = sorted(run.findings.items(), key=lambda item: (rank[item[0][1]], item[0]))
    return [(labels, float(count)) for labels, count in by_rank[:FINDINGS_MAX]]


RUN_FAMILIES: Final = (
    RunFamily(
        "run_info",
        "gauge",
        "Always 1; the labels are the run's host and the number of its attempt, from 1.",
        ("host", "attempt"),
        read=lambda r: [((r.run.host, str(r.run.attempt)), 1.0)],
    ),
    RunFamily(
        "run_state",
        "gauge",
        "1 for the current state of the run, 0 for the other states: running, lost, finished, "
        "failed, stopped.",
        ("state",),
        read=lambda r: each((s, float(s == r.run.state)) for s in STATES),
    ),
    RunFamily(
        "run_step",
        "gauge",
        "The newest reported optimizer step, counted from 0; absent before the first step.",
        read=lambda r: one(r.run.step if r.run.step >= 0 else None),
    ),
    RunFamily(
        "run_planned_steps",
        "gauge",
        "Number of optimizer steps that the run is planned to have; absent when unknown.",
        read=lambda r: one(r.run.total_steps),
    ),
    RunFamily(
        "run_last_report_timestamp_seconds",
        "gauge",
        "Time of the run's last report on the collector's clock.",
        read=lambda r: one(r.run.last_report_at),
    ),
    RunFamily(
        "run_health",
        "gauge",
        "Health from 0 (broken) to 1 (no findings); absent before the first diagnosis.",
        read=lambda r: one(r.run.health),
    ),
    RunFamily(
        "findings_active",
        "gauge",
        "Number of open findings of the run: the places at which the rule fires now.",
        ("rule", "severity"),
        read=_findings,
    ),
    RunFamily(
        "run_loss",
        "gauge",
        "The newest loss by split; NaN when the training loss of the newest step was not finite.",
        ("split",),
        read=lambda r: each(r.vitals.loss.items()),
    ),
    RunFamily(
        "run_gradient_norm",
        "gauge",
        "Total L2 norm of the gradients that the optimizer read, unscaled and after clipping; "
        "NaN when a gradient was not finite.",
        read=lambda r: one(r.vitals.gradient_norm),
    ),
    RunFamily(
        "run_gradient_norm_before_clipping",
        "gauge",
        "Total L2 norm of the gradients that clip_grad_norm_ found, unscaled; absent without "
        "clipping.",
        read=lambda r: one(r.vitals.gradient_norm_before_clipping),
    ),
    RunFamily(
        "run_gradient_norm_layer_spread_ratio",
        "gauge",
        "Largest gradient RMS of a weight tensor divided by the smallest.",
        read=lambda r: one(r.vitals.layers.gradient_spread),
    ),
    RunFamily(
        "run_update_ratio",
        "gauge",
        "Median over the weight tensors of RMS(update) / RMS(weight); a healthy value is about "
        "1e-3.",
        read=lambda r: one(r.vitals.update_ratio),
    ),
    RunFamily(
        "run_learning_rate",
        "gauge",
        "Learning rate of each parameter group, numbered from 0.",
        ("group",),
        read=lambda r: each(r.vitals.learning_rate.items()),
    ),
    RunFamily(
        "run_loss_scale",
        "gauge",
        "Loss scale of the gradient scaler; absent without mixed precision.",
        read=lambda r: one(r.vitals.loss_scale),
    ),
    RunFamily(
        "run_step_duration_seconds",
        "gauge",
        "Median wall-clock time of the newest 32 steps.",
        read=lambda r: one(r.vitals.step_time_s),
    ),
    RunFamily(
        "run_capture_overhead_ratio",
        "gauge",
        "Overhead of trainvitals: its CPU time divided by the step time, in the newest batches.",
        # The value of the run list, so that all pages show the same number. It is absent when the
        # vitals are too old.
        read=lambda r: one(r.run.overhead if r.vitals.step >= 0 else None),
    ),
    RunFamily(
        "run_nonfinite_values",
        "counter",
        "Micro-batch losses (kind loss) and gradient tensors (kind gradient) that were NaN or "
        "infinite.",
        ("kind",),
        read=lambda r: each((k, float(v)) for k, v in r.vitals.nonfinite.items()),
    ),
    RunFamily(
        "run_optimizer_steps_skipped",
        "counter",
        "Updates that the gradient scaler skipped because of an overflow; absent without mixed "
        "precision.",
        ("reason",),
        read=lambda r: [] if r.vitals.skipped is None else [(("overflow",), r.vitals.skipped)],
    ),
    RunFamily(
        "run_scalar",
        "gauge",
        "The newest value of a scalar that the training logged; only those that the setting "
        "metrics_scalars names, at most 8.",
        ("name",),
        read=lambda r: each(r.vitals.scalars.items()),
    ),
    RunFamily(
        "layer_weight_rms",
        "gauge",
        f"RMS of a layer's weight; {WORST}",
        ("layer",),
        read=lambda r: _of(r.vitals.layers.worst, lambda layer: layer.weight_rms),
    ),
    RunFamily(
        "layer_gradient_rms",
        "gauge",
        f"RMS of a layer's gradient, NaN when an entry is not finite; {WORST}",
        ("layer",),
        read=lambda r: _of(r.vitals.layers.worst, lambda layer: layer.gradient_rms),
    ),
    RunFamily(
        "layer_update_ratio",
        "gauge",
        f"RMS(update) / RMS(weight) of a layer; {WORST}",
        ("layer",),
        read=lambda r: _of(r.vitals.layers.worst, lambda layer: layer.update_ratio),
    ),
    RunFamily(
        "layers_left_out",
        "gauge",
        "Number of layers of the run without series; only with metrics_detail = layer.",
        read=lambda r: one(r.vitals.layers.left_out if r.vitals.layers.worst else None),
    ),
    RunFamily(
        "block_weight_rms",
        "gauge",
        f"RMS of the weights of a block; {BLOCK}",
        ("block",),
        read=lambda r: _of(r.vitals.layers.blocks, lambda block: block.weight_rms),
    ),
    RunFamily(
        "block_gradient_rms",
        "gauge",
        f"RMS of the gradients of a block, NaN when an entry is not finite; {BLOCK}",
        ("block",),
        read=lambda r: _of(r.vitals.layers.blocks, lambda block: block.gradient_rms),
    ),
    RunFamily(
        "block_update_ratio",
        "gauge",
        f"RMS(update) / RMS(weight) over the weights of a block; {BLOCK}",
        ("block",),
        read=lambda r: _of(r.vitals.layers.blocks, lambda block: block.update_ratio),
    ),
    RunFamily(
        "blocks_left_out",
        "gauge",
        "Number of blocks of the run without series; only with metrics_detail = group.",
        read=lambda r: one(r.vitals.layers.blocks_left_out if r.vitals.layers.blocks else None),
    ),
)
