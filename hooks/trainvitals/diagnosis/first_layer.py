"""The module that gets the model's input, and its weight.

Comes in: a history. Goes out: places; None where they are not known.
Promise:  pure.
"""

from __future__ import annotations

import math
from typing import Final

from trainvitals.diagnosis.history import History
from trainvitals.wire import Place, Stream

LINEAR: Final = ("Linear", "Conv1d", "Conv2d", "Conv3d")
_SHAPES_ONLY: Final = ("Flatten", "Unflatten", "Identity", "Dropout", "Dropout1d", "Dropout2d")
"""Modules before the first layer that do not change the scale of the input."""


def first_called(history: History) -> Place | None:
    """Return the place of the module that gets the model's input."""
    called = [
        p for p in history.places(Stream.ACTIVATION) if p.depth >= 0 and p.kind not in _SHAPES_ONLY
    ]
    return min(called, key=lambda p: p.depth, default=None)


def first_weight(history: History) -> Place | None:
    """Return the weight of the module that gets the model's input, if its scale can be told."""
    first = first_called(history)
    if first is None:
        return None
    found = [
        p
        for p in history.places(Stream.WEIGHT)
        if p.module == first.name and p.kind == "weight" and len(p.shape) >= 2
    ]
    if not found or "shard" in found[0].flags or "before_norm" in found[0].flags:
        return None
    # Of a recurrent layer, the weights of the input come before those of the state.
    known = found[0].module_kind in LINEAR or "recurrent" in found[0].flags
    return found[0] if known else None


def fan_in_before_norm(history: History, first: Place) -> int:
    """Return the fan-in of the first module's weight if a normalisation follows it, otherwise 0."""
    for place in history.places(Stream.WEIGHT):
        if place.module == first.name and len(place.shape) > 1 and "before_norm" in place.flags:
            return math.prod(place.shape[1:])
    return 0


def is_before_layer_norm(history: History, first: Place) -> bool:
    """Whether the next module is a LayerNorm or an RMSNorm, not a BatchNorm.

    The input is a part of the residual stream then, and its size decides what blocks can add.
    """
    later = [(p.depth, p.kind) for p in history.places(Stream.ACTIVATION) if p.depth > first.depth]
    return min(later, default=(0, ""))[1] in ("LayerNorm", "RMSNorm")


def bias_of(weight: Place) -> str:
    """Return the name of the bias beside a weight: 0.weight → 0.bias, weight_ih_l0 → bias_ih_l0."""
    before, _, last = weight.name.rpartition(".")
    name = last.replace("weight", "bias")
    return f"{before}.{name}" if before else name
