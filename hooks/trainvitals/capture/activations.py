"""Statistics of module outputs.

Comes in: the output of a module. Goes out: its row of the activation stream.
Promise:  no output tensor is kept, only its statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from trainvitals.wire import STATISTICS, Stream

COLUMNS: Final = len(STATISTICS[Stream.ACTIVATION])
ENTRIES_MAX: Final = 65_536
"""Maximum number of entries; of larger outputs, samples and positions are strided evenly."""
DEAD_BATCHES: Final = 20
DEAD_SAMPLES: Final = 256
_CHANNELS_FIRST_3D: Final = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d)
_SATURATED: Final = {"tanh": math.atanh(0.99), "sigmoid": math.log(99.0)}
"""|pre-activation| above which |tanh| exceeds 0.99, or sigmoid is outside (0.01, 0.99)."""


class Liveness:
    """Counts, for each unit of a ReLU layer at one call site, the samples since it was active.

    A unit is dead after `DEAD_BATCHES` batches and `DEAD_SAMPLES` samples without activity: within
    few samples (a policy that acts on one state at a time), an inactive unit is normal.
    """

    def __init__(self) -> None:
        self.idle: Tensor | None = None
        """Batches and samples since each unit was last active, int64, shape (2, units)."""
        self.batches = self.samples = 0

    def observe(self, active: Tensor, samples: int) -> Tensor:
        """Count a batch; `active` is bool (units,). Return the share of dead units, a scalar.

        NaN until enough batches and samples were counted.
        """
        if self.idle is None or self.idle.shape[1:] != active.shape:
            self.idle = torch.zeros((2, *active.shape), dtype=torch.int64, device=active.device)
            self.batches = self.samples = 0
        self.batches += 1
        self.samples += samples
        one_more = torch.tensor([[1], [samples]], device=active.device)
        self.idle = torch.where(active, 0, self.idle + one_more)
        if self.batches < DEAD_BATCHES or self.samples < DEAD_SAMPLES:
            return torch.full((), float("nan"), device=active.device)
        dead: Tensor = (self.idle[0] >= DEAD_BATCHES) & (self.idle[1] >= DEAD_SAMPLES)
        return dead.float().mean()


def first_tensor(output: object) -> Tensor | None:
    """Return the output, or the first tensor in it (LSTM, attention); None if there is none."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Sequence) and output and not isinstance(output, str):
        return first_tensor(output[0])
    return None


def samples_by_units(x: Tensor, module: nn.Module, *, offset: int = 0) -> tuple[Tensor, int]:
    """Return `x` as (samples, channels·positions or units), and the number of channels or 0.

    Two-dimensional outputs are unchanged. Images (samples, channels, …) become samples ×
    (channels·positions), so that S is across samples. In sequences (…, units) every token is a
    sample. Large outputs are strided evenly from `offset`; units are never left out.
    """
    if x.dim() >= 4 or (x.dim() == 3 and isinstance(module, _CHANNELS_FIRST_3D)):
        x = x.flatten(2)
        channels = x.shape[1]
        x = _strided(x, 0, 64, offset)
        x = _strided(x, 2, max(1, ENTRIES_MAX // max(1, x.shape[0] * channels)), offset)
        return x.flatten(1), channels
    x = x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1)
    return _strided(x, 0, max(16, ENTRIES_MAX // max(1, x.shape[1])), offset), 0


def _strided(x: Tensor, dim: int, most: int, offset: int) -> Tensor:
    stride = -(-x.shape[dim] // most)
    if stride <= 1:
        return x
    start = offset % stride
    index = [slice(None)] * x.dim()
    index[dim] = slice(start, None, stride)
    return x[tuple(index)]


def measure(
    output: Tensor,
    module: nn.Module,
    *,
    nonlinearity: str = "",
    functional: bool = False,
    liveness: Liveness | None = None,
    offset: int = 0,
) -> Tensor:
    """Return the row of one output, float32, shape (COLUMNS,), on its device.

    The total variance is S² + M² (law of total variance), so one pass gives all three.
    """
    whole = output.detach()
    nan = torch.full((), float("nan"), device=whole.device)
    if whole.numel() == 0:
        return torch.full((COLUMNS,), float("nan"), device=whole.device)
    # The sum is non-finite if an entry is; count the entries only in this case.
    nonfinite = torch.zeros((), device=whole.device)
    if whole.device.type != "cpu" or not math.isfinite(float(whole.sum(dtype=torch.float64))):
        nonfinite = (~torch.isfinite(whole)).sum().float()
    part, channels = samples_by_units(whole, module, offset=offset)
    x = part.float()
    if whole.device.type == "cpu" and float(nonfinite):
        x = _finite_samples(x)
    if x.numel() == 0:
        row = torch.full((COLUMNS,), float("nan"), device=whole.device)
        row[4] = nonfinite
        return row
    variance, unit_mean = torch.var_mean(x, dim=0, correction=0)
    mean = unit_mean.mean()
    across = variance.mean() if len(x) > 1 else nan
    between = unit_mean.var(correction=0)
    total = between + variance.mean()
    low, high = torch.aminmax(x)
    fourth = (x - mean).square().square().mean()
    inactive = dead = saturated = nan
    rectifies = nonlinearity == "relu"
    if rectifies and (functional or next(module.parameters(False), None) is None):
        fired = x > 0
        active = fired.view(len(x), channels, -1).any(2).any(0) if channels else fired.any(0)
        inactive = 1 - active.float().mean()
        dead = liveness.observe(active, len(x)) if liveness else nan
    if nonlinearity in _SATURATED and (functional or next(module.parameters(False), None) is None):
        saturated = _saturated(x, nonlinearity, functional)
    return torch.stack(
        [
            mean,
            total.sqrt(),
            low,
            high,
            nonfinite,
            (x == 0).float().mean(),
            across.sqrt(),
            between.sqrt(),
            inactive,
            dead,
            saturated,
            torch.where(total > 0, fourth / total.square() - 3, nan),
        ]
    ).float()


def _finite_samples(x: Tensor) -> Tensor:
    return x[torch.isfinite(x).all(dim=1)]


def _saturated(x: Tensor, nonlinearity: str, functional: bool) -> Tensor:
    if functional:
        return (x.abs() > _SATURATED[nonlinearity]).float().mean()
    if nonlinearity == "tanh":
        return (x.abs() > 0.99).float().mean()
    return ((x < 0.01) | (x > 0.99)).float().mean()
