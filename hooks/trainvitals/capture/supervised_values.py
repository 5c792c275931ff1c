"""Statistics of predictions and targets: ranges, sums over classes, supervised entries, classes.

Comes in: a `Criterion` and tensors on any device. Goes out: 0-dim tensors on that device, without a
synchronisation. Large tensors are sampled: `sample`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from trainvitals.capture.loss_criterion import Criterion
from trainvitals.wire import Scalar

ENTRIES_MAX: Final = 16_384
"""Maximum number of entries of a tensor that are read, evenly spaced; at least one row."""
WHOLE_ENTRIES_MAX: Final = 4_096
"""The same for the search for classes in a target that is no integer tensor."""
WHOLE_CLASSES_MAX: Final = 64
"""Whole numbers below it count as classes in such a target."""
CLASSES_MAX: Final = 262_144
"""Maximum number of classes whose targets are counted."""
PREDICTIONS_MIN: Final = 16
"""Minimum number of samples whose predicted classes are counted: few samples agree by chance."""


def sample(x: Tensor, *, whole: int | None = None, entries: int = ENTRIES_MAX) -> Tensor:
    """Return a view of at most `entries` entries, evenly spaced, at least one in each dimension.

    Tensors of one shape are read at the same places. The dimension `whole` is not shortened.
    """
    dims = [d for d in range(x.dim()) if whole is None or d != whole % x.dim()]
    for dim in sorted(dims, key=lambda d: -x.shape[d]):
        every = -(-x.numel() // entries)
        if every <= 1:
            break
        # A stride without small factors does not select the same column of every row.
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
        # Not torch.std_mean, which takes three times as long as both together.
        return {"min": low, "max": high, "mean": x.mean(), "std": x.std(correction=0)}
    # Not x[keep]: its size depends on the values, which requires a wait for an accelerator.
    drop, count = ~keep, keep.sum()
    mean = x.masked_fill(drop, 0.0).sum() / count
    std = ((x - mean).masked_fill(drop, 0.0).square().sum() / count).sqrt()
    nothing = mean - mean  # NaN without any entry, otherwise 0
    low = x.masked_fill(drop, math.inf).amin() + nothing
    high = x.masked_fill(drop, -math.inf).amax() + nothing
    return {"min": low, "max": high, "mean": mean, "std": std}


OUTPUTS_FROM: Final = 8
"""Minimum number of samples of which the deviation of each output is measured."""


def deviation_of_outputs(target: Tensor, keep: Tensor | None) -> dict[str, Tensor]:
    """Return the RMS over the outputs of a sample of their deviation across the samples.

    A constant for each output has the square of it as its mean squared error. Nothing if a sample
    has one output, if targets are masked (`keep`), or with fewer than OUTPUTS_FROM samples.
    """
    if keep is not None or target.dim() < 2 or target.shape[0] < OUTPUTS_FROM:
        return {}
    x = sample(target.detach(), whole=0).float().flatten(1)
    return {Scalar.TARGET_STD_OF_OUTPUTS: x.var(0).mean().sqrt()} if x.shape[1] > 1 else {}


def prediction_scalars(prediction: Tensor, dim: int | None) -> dict[str, Tensor]:
    """Return the scalars of a prediction; with `dim`, the sums over classes too."""
    x = sample(prediction.detach(), whole=dim).float().contiguous()
    found = named("prediction", moments(x, None))
    if dim is not None and x.shape[dim] > 1:
        sums = x.sum(dim)
        found[Scalar.PREDICTION_ROW_SUM_MIN] = sums.amin()
        found[Scalar.PREDICTION_ROW_SUM_MAX] = sums.amax()
        if sums.numel() >= PREDICTIONS_MIN:
            found |= predicted_classes(x, dim)
    return found


def predicted_classes(x: Tensor, dim: int) -> dict[str, Tensor]:
    """Return the number of distinct predicted classes and the share of the most frequent one.

    `x` has the classes in dimension `dim`; the prediction is the index of the largest entry, and of
    a NaN if there is one.
    """
    index = x.argmax(dim).reshape(-1)
    counts = torch.zeros(x.shape[dim], device=x.device)
    counts.scatter_add_(0, index, torch.ones(index.shape, device=x.device))
    return {
        Scalar.PREDICTED_CLASSES: (counts > 0).sum().float(),
        Scalar.PREDICTED_MAJORITY_SHARE: counts.amax() / index.numel(),
    }


def nonfinite_count(x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return the number of NaN and infinite entries where `keep` (None: of all), 0-dim, float."""
    # The sum of finite entries can be infinite; that of a NaN or an infinity is never finite.
    if x.is_cpu and math.isfinite(x.sum().item()):
        return torch.zeros(())
    bad = (x - x) != 0  # 0 for finite entries, NaN for the others
    return (bad if keep is None else bad & keep).sum(dtype=torch.float32)


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


def kept(main: Criterion, target: Tensor) -> Tensor | None:
    """Return which sampled entries of the target count in the loss, shape of `target`, bool.

    None: all. On an accelerator, a loss with an ignore_index or a mask always has a tensor.
    """
    if main.target is None:
        return None
    shape, device, parts = main.target.shape, target.device, []
    if main.classes and not target.is_floating_point():
        if main.ignore_index is not None:
            parts.append(target != main.ignore_index)
        if main.weight is not None and main.weight.device == device:
            parts.append(main.weight.detach()[target.long().clamp(0, main.classes - 1)] != 0)
    for mask in (m.detach() for m in main.masks if m.device == device):
        if mask.numel() == main.target.numel():
            parts.append(unmasked(sample(mask.reshape(shape))))
        elif fits(mask.shape, shape):
            parts.append(unmasked(sample(mask.broadcast_to(shape))))
    if not parts:
        return None
    keep = functools.reduce(torch.logical_and, parts)
    return None if keep.device.type == "cpu" and keep.all() else keep


def unmasked(factors: Tensor) -> Tensor:
    """Return where a factor of the single losses is not 0; everywhere if one is negative.

    A mask has no negative entry; an advantage (policy gradient) has, and may be 0 in a healthy run.
    """
    return factors if factors.dtype == torch.bool else (factors != 0) | (factors < 0).any()


def fits(shape: Sequence[int], into: Sequence[int]) -> bool:
    """Return whether a tensor of a shape can be expanded into another one."""
    pairs = zip(reversed(shape), reversed(into), strict=False)
    return len(shape) <= len(into) and all(a in (1, b) for a, b in pairs)


def class_counts(main: Criterion, target: Tensor, keep: Tensor | None) -> Tensor | None:
    """Return the number of entries of each class, shape (classes,), float; None for no classes.

    Whole numbers from 0 to 63 in a floating-point target count as classes, on the CPU.
    """
    classes = main.classes
    if target.is_floating_point():
        if classes or target.device.type != "cpu":
            return None
        target = sample(target, entries=WHOLE_ENTRIES_MAX)
        keep = None if keep is None else sample(keep, entries=WHOLE_ENTRIES_MAX)
        whole = (target >= 0) & (target < WHOLE_CLASSES_MAX) & (target == target.round())
        if not bool((whole if keep is None else whole | ~keep).all()):
            return None
        classes = int((target if keep is None else target[keep]).amax()) + 1 if _any(keep) else 1
    elif not 0 < classes <= CLASSES_MAX:
        return None
    inside = (target >= 0) & (target < classes)
    if keep is not None:
        inside &= keep
    index = target.masked_fill(~inside, classes).long().reshape(-1)
    ones = torch.ones(index.shape, device=index.device)
    counts = torch.zeros(classes + 1, device=index.device).scatter_add_(0, index, ones)
    return counts[:classes]


def _any(keep: Tensor | None) -> bool:
    return keep is None or bool(keep.any())
