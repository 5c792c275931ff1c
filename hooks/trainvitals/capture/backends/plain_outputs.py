"""The statistics of one module output in torch operations, on any device, without waiting for it.

The same numbers as outputs.c, which has the definitions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainvitals.capture.backends.shapes import Shape, taken
from trainvitals.capture.liveness import Liveness, Mode
from trainvitals.wire import STATISTICS, Stream

COLUMNS = len(STATISTICS[Stream.ACTIVATION])


def measure(tensor: Tensor, shape: Shape, mode: Mode, liveness: Liveness | None) -> Tensor:
    """Return the row of one dense output, float32, shape (COLUMNS,), on its device.

    The total variance is S² + M² (law of total variance), so one pass gives all three. On the CPU,
    samples with a non-finite entry are left out; on a device that would need its answer, so there
    they make the moments NaN.
    """
    device = tensor.device
    nan = torch.full((), float("nan"), device=device)
    nonfinite = (~torch.isfinite(tensor)).sum().float()
    parts = taken(tensor, shape).float()
    x = parts.flatten(1)
    if device.type == "cpu":
        x = x[torch.isfinite(x).all(dim=1)]
    if x.numel() == 0:
        row = torch.full((COLUMNS,), float("nan"), device=device)
        row[4] = nonfinite
        return row
    variance, unit_mean = torch.var_mean(x, dim=0, correction=0)
    mean = unit_mean.mean()
    within, between = variance.mean(), unit_mean.var(correction=0)
    total = between + within
    low, high = torch.aminmax(x)
    fourth = (x - mean).square().square().mean()
    inactive = dead = saturated = nan
    if mode is Mode.RELU:
        active = (x > 0).view(len(x), shape.channels, -1).any(2).any(0)
        inactive = 1 - active.float().mean()
        dead = liveness.observe(active, len(x)) if liveness else nan
    elif mode is not Mode.PLAIN:
        smallest, largest = mode.limits
        saturated = ((x < smallest) | (x > largest)).float().mean()
    return torch.stack(
        [
            mean,
            total.sqrt(),
            low,
            high,
            nonfinite,
            (x == 0).float().mean(),
            within.sqrt() if len(x) > 1 else nan,
            between.sqrt(),
            inactive,
            dead,
            saturated,
            torch.where(total > 0, fourth / total.square() - 3, nan),
        ]
    ).float()
