"""Masks and factors between a loss function and the loss: which elements count.

Comes in: nodes of the graph of a loss. Goes out: the tensors that torch saved in them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainvitals.capture.graph_nodes import saved


def mask_of(node: Any, name: str) -> Tensor | None:
    """Return the factor or condition that a node applies to single losses, or None."""
    if name == "Mul":
        first = node.next_functions[0][0] is not None
        mask = saved(node, "other" if first else "self")
        return mask if mask is not None and mask.dim() > 0 else None
    if name == "MaskedSelect":
        return saved(node, "mask")
    if name == "MaskedFill":
        mask = saved(node, "mask")
        return None if mask is None else ~mask
    if name == "Where":
        condition = saved(node, "condition")
        first = node.next_functions[0][0] is not None
        return condition if first or condition is None else ~condition
    if name == "Index":
        return _index_mask(node)
    return None


def _index_mask(node: Any) -> Tensor | None:
    """Return the boolean mask of `losses[mask]`."""
    try:
        raw: Any = getattr(node, "_raw_saved_indices", ())
        if len(raw) != 1 or getattr(raw[0], "unpack_hook", raw) is not None:
            return None
        index = node._saved_indices[0]
    except RuntimeError:
        return None
    return index if isinstance(index, Tensor) and index.dtype == torch.bool else None


def is_zero(node: Any) -> bool:
    left = node.next_functions[0][0]
    tensor = saved(node, "other" if left is not None else "self")
    if tensor is None or tensor.dim() or tensor.device.type != "cpu":
        return False
    return not tensor.item()
