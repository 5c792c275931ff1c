"""Made-up runs, as the query API tells them: healthy, sick, silent, hostile."""

from __future__ import annotations

import functools
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from helpers.fake_findings import DEAD, FLAT, SPIKE, VANISHING, finding_of, seen

HOSTILE = (
    "<img src=x onerror=alert(1)> [a](http://evil.example/x) ![i](http://evil.example/y) :skull:"
)
"""HTML, a link, an image and an icon: what a run or a layer may be called."""

ENTRIES = [
    *("mean", "std", "min", "max", "l2", "nonfinite"),
    *("magnitude_p05", "magnitude_p50", "magnitude_p95"),
]
STATISTICS = {
    "weight": [*ENTRIES, "drift_rms", "drift_mean"],
    "gradient": ENTRIES,
    "update": ["rms", "ratio", "mean"],
    "activation": ["mean", "std", "sample_std", "dead_share", "saturated_share"],
    "scalar": ["value"],
}

SCALARS = ("loss", "loss/validation", "gradient_norm", "learning_rate/0", "log/acc")
Value = Callable[[str, str, str, int], float | None]


@dataclass
class FakeRun:
    """A run; `values` gives each number of it."""

    id: str
    project: str = "vision"
    state: str = "finished"
    step: int = 400
    total_steps: int | None = 401
    findings: list[dict[str, Any]] = field(default_factory=list)
    layers: list[str] = field(default_factory=lambda: [f"encoder.{i}" for i in range(12)])
    scalars: tuple[str, ...] = SCALARS
    values: Value | None = None
    missing: tuple[int, int] | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    def is_missing(self, step: int) -> bool:
        return self.missing is not None and self.missing[0] <= step <= self.missing[1]

    def value(self, stream: str, statistic: str, place: str, step: int) -> float | None:
        return (self.values or healthy_value)(stream, statistic, place, step)

    def initial(self) -> dict[str, Any]:
        """Return a state before the training in which each layer halves the signal."""
        layers = [
            {
                "depth": depth,
                "layer": name,
                "S": 0.5**depth,
                "M": 0.1,
                "gradient_rms": 1e-3 * 0.5 ** (len(self.layers) - depth),
            }
            for depth, name in enumerate(self.layers)
        ]
        return {
            "batches": 4,
            "initialisers": {
                f"{name}.weight": {"name": "he_normal", "parameters": {"gain": math.sqrt(2)}}
                for name in self.layers
            },
            "propagation": layers,
            "chi": 0.25,
            "gradient_chi": 0.25,
            "depth_of_failure": 10,
            "initial_loss": {"seen": 2.41, "expected": 2.303, "formula": "ln 10"},
        }

    def layout(self) -> list[dict[str, Any]]:
        parameters = [
            place(f"{layer}.{kind}", kind, [64, 64] if kind == "weight" else [64], depth, layer)
            for depth, layer in enumerate(self.layers)
            for kind in ("weight", "bias")
        ]
        modules = [place(name, "ReLU", [], i, name) for i, name in enumerate(self.layers)]
        scalars = [place(name, "", [], -1, "") for name in self.scalars]
        rows = {"activation": modules, "scalar": scalars}
        return [
            {"stream": stream, "statistics": names, "places": rows.get(stream, parameters)}
            for stream, names in STATISTICS.items()
        ]


def place(name: str, kind: str, shape: list[int], depth: int, module: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "shape": shape,
        "depth": depth,
        "module": module,
        "module_kind": "Linear" if kind in ("weight", "bias") else kind,
        "nonlinearity": "",
        "trainable": True,
        "optimized": True,
        "aliases": [],
        "flags": [],
    }


@functools.lru_cache(maxsize=200_000)
def noise(*seed: object) -> float:
    """Return the same number near 1 for the same seed, within a factor of 1.3."""
    # Not Random(seed): it needs ten times as long, for each number of a page with 200 rows.
    share = zlib.crc32(str(seed).encode()) / 2**32
    return math.exp(0.26 * (2 * share - 1))  # the standard deviation of the exponent is 0.15


def layer_number(name: str) -> int:
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return int(digits[0]) if digits else 0


def healthy_value(stream: str, statistic: str, name: str, step: int) -> float | None:
    shake = noise(stream, statistic, name, step)
    if stream == "scalar":
        return {
            "loss": 2.3 * math.exp(-step / 90) * shake + 0.05,
            "loss/validation": (2.3 * math.exp(-step / 80) + 0.12) if step % 20 == 0 else None,
            "gradient_norm": 1.4 * math.exp(-step / 300) * shake,
            "learning_rate/0": 1e-3 * min(1, (step + 1) / 40) * (1 + math.cos(step / 130)) / 2,
            "log/acc": 1 - math.exp(-step / 100),
        }[name]
    base = 1 + 0.1 * layer_number(name)
    values = {
        "l2": {"weight": 8.0, "gradient": 0.1}.get(stream, 1.0) * base,
        "ratio": 1e-3,
        "min": -0.3,
        "max": 0.3,
        "magnitude_p05": 0.006,
        "magnitude_p50": 0.07,
        "magnitude_p95": 0.2,
        "mean": 0.02 * math.sin(step / 30 + base),
        "nonfinite": 0.0,
        "drift_rms": 0.01 * math.sqrt(step + 1) if "bias" in name else math.nan,
        "dead_share": 0.05,
        "saturated_share": 0.02,
    }
    value = values.get(statistic, base) * shake
    return None if math.isnan(value) else value


def vanishing_value(stream: str, statistic: str, name: str, step: int) -> float | None:
    """Every layer takes 0.6 of a decade from the gradient; the loss stays where it is."""
    if stream == "scalar" and name.startswith("loss"):
        value = healthy_value(stream, statistic, name, step)
        return None if value is None else 2.303 * (1 + 0.02 * (noise("flat", step) - 1))
    if (stream, statistic) in (("gradient", "l2"), ("update", "ratio")):
        start = 0.2 if stream == "gradient" else 1e-3
        return start * 10 ** (-0.6 * (11 - layer_number(name))) * noise(stream, name, step)
    return healthy_value(stream, statistic, name, step)


def spiking_value(stream: str, statistic: str, name: str, step: int) -> float | None:
    """A loss that jumps once, and is infinite once."""
    if (stream, name) == ("scalar", "loss") and step == 251:
        return 1e4
    if (stream, name) == ("scalar", "loss") and step == 300:
        return math.inf
    return healthy_value(stream, statistic, name, step)


def healthy_run(name: str = "resnet-baseline", **fields: Any) -> FakeRun:
    return FakeRun(name, **fields)


def vanishing_run(name: str = "sigmoid-deep", **fields: Any) -> FakeRun:
    return FakeRun(name, findings=[VANISHING, FLAT], values=vanishing_value, **fields)


def spiking_run(name: str = "gpt-small", **fields: Any) -> FakeRun:
    """A run that is under way, with a gap and what has no number."""
    dropped = {
        "first_step": 140,
        "last_step": 190,
        "stream": "scalar",
        "reason": "queue_full",
        "records": 51,
    }
    resolved = {**DEAD, "state": "resolved", "last_step": 160}
    return FakeRun(
        name,
        **{"project": "language", "state": "running", "total_steps": 2000, **fields},
        findings=[SPIKE, resolved],
        values=spiking_value,
        missing=(140, 190),
        detail={"dropped": [dropped], "not_watched": {"head.scale": "shape () has no rows"}},
    )


def failed_run(name: str = "failed", error: str = "RuntimeError: boom", **fields: Any) -> FakeRun:
    """A run that ended with an exception."""
    return vanishing_run(
        name, state="failed", fields={"verdict": "failed", "error": error}, **fields
    )


def lost_run(name: str = "lost", **fields: Any) -> FakeRun:
    """A run whose process stopped reporting."""
    error = "contact was lost: the process neither reports nor has it said that it ended"
    return FakeRun(name, state="lost", fields={"verdict": "failed", "error": error}, **fields)


def blind_run(name: str = "no-loss", **fields: Any) -> FakeRun:
    """A run that reports neither its loss nor activations."""
    loss = "no training loss was reported: wrap it in monitor.loss(…) or pass loss= to watch"
    blind = {
        "no_learning": loss,
        "loss_spike": loss,
        "dead_relu": "no activations were seen: the model was compiled before watch",
    }

    def values(stream: str, statistic: str, place: str, step: int) -> float | None:
        if place.startswith("loss"):
            return None
        return healthy_value(stream, statistic, place, step)

    return FakeRun(name, values=values, fields={"verdict": "blind", "blind": blind}, **fields)


def young_run(name: str = "ten-steps", **fields: Any) -> FakeRun:
    """A run of too few steps for a verdict."""
    return FakeRun(name, **{"step": 9, "total_steps": None, **fields})


def hostile_run(**fields: Any) -> FakeRun:
    """A run whose every name is an attack."""
    finding = {
        **DEAD,
        "where": f"{HOSTILE}.0",
        "summary": f"83 % of {HOSTILE} are zero.",
        "advice": f"See {HOSTILE}, or `{HOSTILE}`",
        "why": HOSTILE,
        "fix": HOSTILE,
        "refuted_by": HOSTILE,
        "evidence": [
            {**seen(HOSTILE, HOSTILE), "text": HOSTILE, "unit": HOSTILE},
            seen("share of dead units", 0.8, 0.5, "above"),
        ],
    }
    return FakeRun(
        HOSTILE,
        project=f"p {HOSTILE}",
        layers=[f"{HOSTILE}.{i}" for i in range(3)],
        findings=[finding],
        detail={"not_watched": {HOSTILE: HOSTILE}, "config": {HOSTILE: HOSTILE}},
        fields={"host": HOSTILE, "tags": [HOSTILE]},
        **fields,
    )


def run_of(run: FakeRun) -> dict[str, Any]:
    """Return what the run list says of a run."""
    findings = [finding_of(f) for f in run.findings]
    alarms = [f for f in findings if f["state"] == "open" and not f["explained_by"]]
    headline = next(iter(alarms), None)
    now = time.time()
    verdict = "healthy" if run.step > 98 else "too_early"
    if headline is not None:
        verdict = headline["severity"]
    ends = run.state not in ("running", "lost")
    spark = [run.value("scalar", "value", "loss", s) for s in range(0, run.step + 1, 8)]
    return {
        "id": run.id,
        "project": run.project,
        "name": run.id,
        "state": run.state,
        "started_at": now - 600,
        "last_report_at": now - (90 if ends else 1),
        "ended_at": now - 90 if ends else None,
        "step": run.step,
        "total_steps": run.total_steps,
        "loss": spark[-1] if spark else None,
        "health": None if run.step < 0 else (1.0 if headline is None else 0.3),
        "verdict": verdict,
        "headline": headline,
        "findings": {
            severity: sum(f["severity"] == severity and f["state"] == "open" for f in findings)
            for severity in ("error", "warning", "info")
        },
        "sparkline": [v if v is not None and math.isfinite(v) else None for v in spark][-60:],
        "step_rate": 12.5,
        "tags": ["baseline"],
        "attempt": 1,
        "host": "gpu-01",
        "overhead": 0.012,
        "config": {"lr": 1e-3, "optimizer": {"name": "AdamW", "betas": [0.9, 0.95]}},
        "metadata": {
            "git_commit": "0123abc",
            "argv": ["train.py", "--deep"],
            "versions": {"python": "3.11", "torch": "2.13"},
            "pid": 4242,
            "facts": {"optimizer": "AdamW", "parameters": 49920.0},
        },
        "dropped": [],
        "not_watched": {},
        "events": [{"step": 40, "time": now, "kind": "lr_changed", "text": "warm-up ends"}],
        **run.fields,
    }
