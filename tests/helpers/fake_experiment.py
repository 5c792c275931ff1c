"""A run that carries the result of a made-up experiment, as the query API tells it."""

from __future__ import annotations

import math
from typing import Any

from helpers.fake_runs import FakeRun

HEADER = ("choice", "metric", "95 % interval", "final loss", "learned")
CHOICES = {"he_normal": 0.94, "xavier_normal": 0.91, "torch_default": 0.72, "zeros": 0.1}
DEPTH = 12


def experiment(**fields: Any) -> dict[str, Any]:
    """Return an `Experiment` of four initialisations with a winner."""
    steps = list(range(10, 201, 10))
    return {
        "metric": "accuracy",
        "higher_is_better": True,
        "steps": 200,
        "seeds": 5,
        "best": "he_normal",
        "tied": [],
        "reason": "he_normal has the best accuracy (0.94); it beats every other choice.",
        "notes": [],
        "header": HEADER,
        "rows": [
            {
                "choice": name,
                "cells": [name, f"{end}", f"{end - 0.01:.2f} to {end + 0.01:.2f}", "0.3", "yes"],
                "learned": name != "zeros",
            }
            for name, end in CHOICES.items()
        ],
        "curves": [
            {
                "choice": name,
                "steps": steps,
                "low": [0.9 * grown(end, s) for s in steps],
                "mean": [grown(end, s) for s in steps],
                "high": [min(1.0, 1.05 * grown(end, s)) for s in steps],
                "seeds": [5] * len(steps),
            }
            for name, end in CHOICES.items()
        ],
        "signals": [
            {
                "choice": name,
                "layers": [f"layers.{i}" for i in range(DEPTH)],
                "S": [0.0 if name == "zeros" else (0.6 + 0.4 * end) ** i for i in range(DEPTH)],
            }
            for name, end in CHOICES.items()
        ],
        **fields,
    }


def grown(end: float, step: int) -> float:
    return 0.1 + (end - 0.1) * (1 - math.exp(-step / 40))


def experiment_run(name: str = "deep network", **fields: Any) -> FakeRun:
    """Return the run that a collector keeps of an experiment."""
    return FakeRun(
        name,
        step=-1,
        detail={"config": {"experiment": experiment(**fields)}},
        fields={"tags": ["experiment"], "loss": None, "sparkline": []},
    )
