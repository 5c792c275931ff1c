"""Which subset of the data a bias may come from: a class, equal rows, constant features."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

IMBALANCE_MAX: Final = 10.0
"""Majority against minority, as in TV805."""
DUPLICATES_MAX: Final = 0.1
OFFSET_MAX: Final = 3.0
"""Mean of the targets in standard deviations."""
NAMED_MAX: Final = 5
"""Number of rows or features that are listed."""
CLASSES_MAX: Final = 1000
"""Whole numbers with more different values are not classes."""


@dataclass(frozen=True)
class Subset:
    """A part of the data that pulls biases to one side."""

    kind: str
    """class_imbalance | target_offset | duplicated_rows | constant_features"""
    where: str
    """Which part: "class 0", "rows 3, 17", "features 5"."""
    share: float
    """Of the samples (of the features for constant ones), 0 to 1."""
    effect: str
    """Which bias it moves, and how."""


def subsets_of(inputs: Tensor | None, targets: Tensor | None) -> list[Subset]:
    """Return the subsets that are found. `inputs` and `targets`: one row per sample."""
    found: list[Subset] = []
    if targets is not None and targets.numel() > 1:
        found += _targets(targets)
    if inputs is not None and len(inputs) > 1:
        found += _duplicates(inputs.flatten(1) if inputs.dim() > 1 else inputs.unsqueeze(1))
        if inputs.is_floating_point():
            found += _constant_features(inputs.flatten(1) if inputs.dim() > 1 else inputs[:, None])
    return found


def majority(targets: Tensor) -> tuple[int, float, float] | None:
    """Return the most frequent class, its share and its ratio to the rarest; None if no classes."""
    if targets.is_floating_point() or targets.is_complex():
        return None
    values, counts = torch.unique(targets.flatten(), return_counts=True)
    if not 1 < len(values) <= CLASSES_MAX:
        return None
    largest = int(counts.argmax())
    return (
        int(values[largest]),
        int(counts[largest]) / targets.numel(),
        int(counts.max()) / int(counts.min()),
    )


def _targets(targets: Tensor) -> list[Subset]:
    if frequent := majority(targets):
        which, share, ratio = frequent
        if ratio <= IMBALANCE_MAX:
            return []
        effect = f"{ratio:.3g} times the rarest class: raises the head's bias of unit {which}"
        return [Subset("class_imbalance", f"class {which}", share, effect)]
    if not targets.is_floating_point():
        return []
    values = targets.double()
    mean, std = float(values.mean()), float(values.std(correction=0))
    if abs(mean) <= OFFSET_MAX * std or std == 0:
        return []
    effect = f"mean {mean:.3g}, standard deviation {std:.3g}: the head's bias moves to the mean"
    return [Subset("target_offset", "all targets", 1.0, effect)]


def _duplicates(rows: Tensor) -> list[Subset]:
    copied = rows.detach().cpu().contiguous()
    if copied.dtype == torch.bfloat16:
        copied = copied.float()
    digests = [hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in copied]
    digest, count = Counter(digests).most_common(1)[0]
    share = (len(digests) - len(set(digests))) / len(digests)
    if share <= DUPLICATES_MAX:
        return []
    equal = [i for i, other in enumerate(digests) if other == digest]
    effect = f"the largest group has {count} equal rows: biases fit them more than others"
    return [Subset("duplicated_rows", f"rows {_listed(equal)}", share, effect)]


def _constant_features(rows: Tensor) -> list[Subset]:
    constant = (rows == rows[0]).all(0).nonzero().flatten().tolist()
    # A feature that is always 0 adds nothing; any other acts as a second bias.
    active = [i for i in constant if float(rows[0, i]) != 0]
    if not active:
        return []
    value = float(rows[0, active[0]])
    effect = f"first value {value:.3g}: its weights act as a second bias of the first layer"
    share = len(active) / rows.shape[1]
    return [Subset("constant_features", f"features {_listed(active)}", share, effect)]


def _listed(numbers: list[int]) -> str:
    more = len(numbers) - NAMED_MAX
    listed = ", ".join(str(number) for number in numbers[:NAMED_MAX])
    return listed + (f" and {more} more" if more > 0 else "")
