"""Functions that the studies share: data, and the course of a metric."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainvitals.experiments.result import Result

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import experiments as examples

Floats = npt.NDArray[np.float64]

__all__ = ["Floats", "course", "examples", "offset_data"]


def course(result: Result, choice: str) -> tuple[Floats, Floats]:
    """Return steps and the median over the seeds of the held-out metric of a choice."""
    values: dict[int, list[float]] = {}
    for outcome in result.outcomes:
        for step, value in outcome.curve if outcome.choice == choice else ():
            if value is not None:
                values.setdefault(step, []).append(value)
    steps = sorted(values)
    return np.array(steps, float), np.array([median(values[s]) for s in steps])


def offset_data(offset: float = 50.0, samples: int = 1024) -> tuple[Tensor, Tensor]:
    """Return inputs (samples, 8) and targets (samples, 1) of std 1 and mean `offset`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 8, generator=generator)
    y = torch.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3] + 0.5 * x[:, 3:4]
    return x, (y - y.mean()) / y.std() + offset
