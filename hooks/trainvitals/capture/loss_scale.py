"""The unit of a loss: by what its program multiplies the mean over the supervised elements.

Comes in: nodes of an autograd graph between a loss function and the reported loss.
Goes out: factors; NaN where the graph does not show one. Nothing waits for an accelerator.
"""

from __future__ import annotations

import math
from typing import Any, Final

from torch import Tensor

from trainvitals.capture.graph_nodes import KEEP, operation, saved, shape_of, signed

_UNCHANGED: Final = frozenset((*KEEP, "Mean", "Add", "Sub", "Stack", "Cat"))
"""Operations that keep the size of the elements, or average them."""
_SUM: Final = 2
"""torch's number of this reduction."""


def factor(node: Any) -> float:
    """Return by what a node between a loss function and the loss multiplies the mean; NaN: unknown.

    A sum over n elements is n times their mean.
    """
    name = operation(node)
    if name in _UNCHANGED:
        return 1.0
    if name == "Sum":
        return _summed(node)
    if name == "Neg":
        return -1.0
    if name == "Div":
        divisor = _number(saved(node, "other"))
        return 1 / divisor if divisor else math.nan
    if name == "Mul":
        sides = [side for side, _ in node.next_functions]
        if None not in sides:
            return math.nan
        return _number(saved(node, "self" if sides[0] is None else "other"))
    return math.nan


def factors_of_inputs(node: Any) -> list[float]:
    """Return by what a node multiplies each of its inputs besides: −1 for what is subtracted."""
    factors = [1.0] * len(node.next_functions)
    if operation(node) in ("Add", "Sub") and len(factors) == 2:
        factors[1] = float(getattr(node, "_saved_alpha", 1.0))
        if operation(node) == "Sub":
            factors[1] = -factors[1]
    return factors


def own_factor(node: Any, elements: int) -> float:
    """Return the same for a loss function with a reduction over so many elements; 0: unknown."""
    if node._saved_reduction != _SUM:
        return 1.0
    return float(elements) if elements else math.nan


def own_factor_of_classes(node: Any) -> float:
    """Return the same for a loss of class numbers: those equal to its ignore_index do not count.

    On an accelerator all count: their number would be waited for.
    """
    target = saved(node, "target")
    if target is None or node._saved_reduction != _SUM:
        return own_factor(node, 0)
    if target.device.type != "cpu":
        return own_factor(node, target.numel())
    return own_factor(node, int((target != signed(node._saved_ignore_index)).sum()))


def _summed(node: Any) -> float:
    sizes, out = getattr(node, "_saved_self_sym_sizes", None), shape_of(node, 0)
    if sizes is None or out is None:
        return math.nan
    return math.prod(int(n) for n in sizes) / max(1, math.prod(out))


def _number(tensor: Tensor | None) -> float:
    if tensor is None or tensor.dim() or tensor.device.type != "cpu":
        return math.nan
    return float(tensor.item())
