"""Made-up runs for the page of the loss: all of it measured, or parts of it."""

from __future__ import annotations

import math
from typing import Any

from helpers.fake_findings import seen
from helpers.fake_runs import HOSTILE, SCALARS, FakeRun, healthy_value, noise

BEST_STEP = 200
"""The step of the lowest validation loss of `overfitting_run`."""
OVERFITTING = {
    "rule": "overfitting",
    "code": "TV506",
    "severity": "warning",
    "since_step": BEST_STEP,
    "summary": "Overfitting: the validation loss has risen by 55 % since step 200.",
    "evidence": [seen("rise of the validation loss since its minimum", 0.55, 0.1, "above")],
    "advice": "- Keep the weights of the minimum (early stopping).",
    "stage": "loss",
    "stream": "scalar",
    "statistic": "loss",
}
_RANGES = {
    "prediction_min": -4.0,
    "prediction_mean": 0.1,
    "prediction_max": 5.0,
    "target_min": 0.0,
    "target_mean": 4.5,
    "target_max": 9.0,
}


def overfitting_value(stream: str, statistic: str, name: str, step: int) -> float | None:
    """A training loss that falls, and a validation loss with its minimum at BEST_STEP."""
    if stream != "scalar":
        return healthy_value(stream, statistic, name, step)
    if name.startswith("loss/"):
        return 0.6 + 0.004 * abs(step - BEST_STEP) if step % 20 == 0 else None
    if name.startswith("loss_term/"):
        return (1.8 if name.endswith("ce") else 0.2) * math.exp(-step / 90) * noise(name, step)
    if name == "supervised_share":
        return 0.75 if step % 10 == 0 else None
    if name in _RANGES:
        return _RANGES[name] * noise(name, step) if step % 10 == 0 else None
    return healthy_value(stream, statistic, name, step)


def overfitting_run(name: str = "memoriser", **fields: Any) -> FakeRun:
    """A run that overfits, and of which all about the loss was measured."""
    terms = ("loss_term/ce", "loss_term/kl")
    return FakeRun(
        name,
        findings=[OVERFITTING],
        scalars=(*SCALARS, *terms, *_RANGES, "supervised_share"),
        values=overfitting_value,
        **fields,
    )


def hostile_loss_run() -> FakeRun:
    """A run whose splits and terms are named as an attack."""
    splits = (f"loss/{HOSTILE}", f"loss_term/{HOSTILE}")
    return FakeRun(HOSTILE, scalars=("loss", *splits), values=overfitting_value)
