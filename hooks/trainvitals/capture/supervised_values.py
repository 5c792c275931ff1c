"""Statistics of predictions and targets: ranges, sums over classes, supervised entries, classes.

Comes in: a `Criterion` and tensors on any device. Goes out: 0-dim tensors on that device, without a
synchronisation. Large tensors are sampled: `sample`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from trainvitals.capture.loss_graph import Criterion
from trainvitals.wire import Scalar

ENTRIES_MAX: Final = 65_536
"""Maximum number of entries of a tensor that are read, evenly spaced; at least one row."""
WHOLE_ENTRIES_MAX: Final = 4_096
"""The same for the search for classes in a target that is no integer tensor."""
WHOLE_CLASSES_MAX: Final = 64
"""Whole numbers below it count as classes in such a target."""
CLASSES_MAX: Final = 262_144
"""Maximum number of classes whose targets are counted."""


def sample(x: Tensor, *, whole: int | None = None, entries: int = ENTRIES_MAX) -> Tensor:
    """Return a view of at most `entries` entries, evenly spaced, at least one in each dimension.

    Tensors of one shape are read at the same places. The dimension `whole` is not shortened.
    """
    dims = [d for d in range(x.dim()) if whole is None or d != whole % x.dim()]
    for dim in sorted(dims, key=lambda d: -x.shape[d]):
        every = -(-x.numel() // entries)
        if every <= 1:
            break
        # A stride without small factors does not meet the same column of every row.
        while math.gcd(every, 30) > 1:
            every += 1
        x = x[(slice(None),) * dim + (slice(None, None, min(every, x.shape[dim])),)]
    return x


def moments(x: Tensor, keep: Tensor | None) -> dict[str, Tensor]:
    """Return min, max, mean and population std of the entries where `keep`; NaN without any.

    0-dim tensors on the device of `x`. A NaN among the entries makes them NaN.
    """
    if x.numel() == 0:
        return {}
    if keep is None:
        low, high = torch.aminmax(x)
        std, mean = torch.std_mean(x, correction=0)
        return {"min": low, "max": high, "mean": mean, "std": std}
    count = keep.sum()
    mean = torch.where(keep, x, 0.0).sum() / count
    std = (torch.where(keep, (x - mean).square(), 0.0).sum() / count).sqrt()
    low = torch.where(keep, x, math.inf).amin()
    high = torch.where(keep, x, -math.inf).amax()
    nothing = torch.where(count > 0, 0.0, math.nan)
    return {"min": low + nothing, "max": high + nothing, "mean": mean, "std": std}


def prediction_scalars(prediction: Tensor, dim: int | None) -> dict[str, Tensor]:
    """Return the scalars of a prediction; with `dim`, the sums over classes too."""
    x = sample(prediction.detach(), whole=dim).float()
    found = named("prediction", moments(x, None))
    if dim is not None and x.shape[dim] > 1:
        sums = x.sum(dim)
        found[Scalar.PREDICTION_ROW_SUM_MIN] = sums.amin()
        found[Scalar.PREDICTION_ROW_SUM_MAX] = sums.amax()
    return found


def named(name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}_{key}": value for key, value in values.items()}


def class_dim(x: Tensor, classes: int, target: Tensor | None) -> int | None:
    """Return the dimension of the classes, 1 or −1; None if there is none or one sample only."""
    if not classes or x.dim() < 2:
        return None
    if target is not None and not target.is_floating_point() and x.dim() == target.dim() + 1:
        return dim_beside(x, target)
    return 1 if x.shape[1] == classes else -1


def dim_beside(prediction: Tensor, target: Tensor) -> int:
    """Return the dimension that a prediction has and its target of class indices has not."""
    if prediction.dim() < 2:
        return 0
    without = (prediction.shape[0], *prediction.shape[2:])
    return 1 if without == tuple(target.shape) else -1


def kept(main: Criterion, target: Tensor) -> Tensor:
    """Return which sampled entries of the target count in the loss, shape of `target`, bool."""
    keep = torch.ones_like(target, dtype=torch.bool)
    if main.target is None:
        return keep
    if main.classes and not target.is_floating_point():
        if main.ignore_index is not None:
            keep &= target != main.ignore_index
        if main.weight is not None:
            keep &= main.weight.detach()[target.long().clamp(0, main.classes - 1)] != 0
    for mask in main.masks:
        if mask.numel() == main.target.numel():
            keep &= sample(mask.detach().reshape(main.target.shape)) != 0
        elif _fits(mask.shape, main.target.shape):
            keep &= sample(mask.detach().broadcast_to(main.target.shape)) != 0
    return keep


def _fits(shape: Sequence[int], into: Sequence[int]) -> bool:
    pairs = zip(reversed(shape), reversed(into), strict=False)
    return len(shape) <= len(into) and all(a in (1, b) for a, b in pairs)


def class_counts(main: Criterion, target: Tensor, keep: Tensor) -> Tensor | None:
    """Return the number of entries of each class, shape (classes,), float; None for no classes.

    Whole numbers from 0 to 63 in a floating-point target count as classes, on the CPU.
    """
    classes = main.classes
    if target.is_floating_point():
        if classes or target.device.type != "cpu":
            return None
        target, keep = (sample(x, entries=WHOLE_ENTRIES_MAX) for x in (target, keep))
        inside = (target >= 0) & (target < WHOLE_CLASSES_MAX) & (target == target.round())
        if not bool((inside | ~keep).all()):
            return None
        classes = int(torch.where(keep, target, 0).max()) + 1
    elif not 0 < classes <= CLASSES_MAX:
        return None
    inside = keep & (target >= 0) & (target < classes)
    index = torch.where(inside, target, classes).long().reshape(-1)
    ones = torch.ones(index.shape, device=index.device)
    counts = torch.zeros(classes + 1, device=index.device).scatter_add_(0, index, ones)
    return counts[:classes]
