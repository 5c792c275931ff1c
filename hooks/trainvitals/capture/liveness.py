"""When a unit counts as dead or saturated."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

DEAD_BATCHES: Final = 20
DEAD_SAMPLES: Final = 256


class Mode(IntEnum):
    """What the entries of an output are: the numbers are those of outputs.c."""

    PLAIN = 0
    RELU = 1
    TANH = 2
    SIGMOID = 3
    BEFORE_TANH = 4
    BEFORE_SIGMOID = 5

    @property
    def limits(self) -> tuple[float, float]:
        """Entries outside are saturated: |tanh| above 0.99, sigmoid outside (0.01, 0.99)."""
        return _LIMITS[self]


_LIMITS: Final = {
    Mode.TANH: (-0.99, 0.99),
    Mode.SIGMOID: (0.01, 0.99),
    Mode.BEFORE_TANH: (-math.atanh(0.99), math.atanh(0.99)),
    Mode.BEFORE_SIGMOID: (-math.log(99.0), math.log(99.0)),
}


def mode_of(nonlinearity: str, *, functional: bool, has_parameters: bool) -> Mode:
    """Return the mode of a module's output.

    `functional`: the nonlinearity is a function that follows the module. A module with parameters
    is not a nonlinearity itself.
    """
    if has_parameters and not functional:
        return Mode.PLAIN
    if nonlinearity == "relu":
        return Mode.RELU
    if nonlinearity == "tanh":
        return Mode.BEFORE_TANH if functional else Mode.TANH
    if nonlinearity == "sigmoid":
        return Mode.BEFORE_SIGMOID if functional else Mode.SIGMOID
    return Mode.PLAIN


class Liveness:
    """Counts, for each unit of a ReLU layer at one call site, the samples since it was active.

    A unit is dead after `DEAD_BATCHES` batches and `DEAD_SAMPLES` samples without activity: within
    few samples (a policy that acts on one state at a time), an inactive unit is normal.
    """

    def __init__(self) -> None:
        self.idle: Tensor | None = None
        """Batches and samples since each unit was last active, int64, shape (2, units)."""
        self.batches = self.samples = 0
        self._native: npt.NDArray[np.int64] | None = None

    def native(self, units: int) -> npt.NDArray[np.int64]:
        """Return the counters of the native kernel: all batches and samples, then `idle`."""
        if self._native is None or len(self._native) != 2 + 2 * units:
            self._native = np.zeros(2 + 2 * units, np.int64)
        return self._native

    def observe(self, active: Tensor, samples: int) -> Tensor:
        """Count a batch; `active` is bool (units,). Return the share of dead units, a scalar.

        NaN until enough batches and samples were counted.
        """
        if self.idle is None or self.idle.shape[1:] != active.shape:
            self.idle = torch.zeros((2, *active.shape), dtype=torch.int64, device=active.device)
            self.batches = self.samples = 0
        self.batches += 1
        self.samples += samples
        # No tensor is made from Python numbers: the copy to a device would wait for it.
        later = torch.stack([self.idle[0] + 1, self.idle[1] + samples])
        self.idle = torch.where(active, 0, later)
        if self.batches < DEAD_BATCHES or self.samples < DEAD_SAMPLES:
            return torch.full((), float("nan"), device=active.device)
        dead: Tensor = (self.idle[0] >= DEAD_BATCHES) & (self.idle[1] >= DEAD_SAMPLES)
        return dead.float().mean()
