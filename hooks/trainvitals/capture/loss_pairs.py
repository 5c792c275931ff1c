"""Read losses of pairs, whose targets are 1 and −1, and divergences in a loss's autograd graph.

Comes in: a node of the graph. Goes out: a `Criterion`, or None.
Promise:  at most one comparison of two masks on the CPU is computed; nothing is changed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trainvitals.capture.graph_nodes import operation, saved, signed
from trainvitals.capture.loss_criterion import Criterion

UNSIGNED_PAIRS = "pairs_neither_1_nor_minus_1"
PROBABILITIES = "softmax_before_kl_div"


def pairs(node: Any, reduction: str) -> Criterion | None:
    """Return a CosineEmbeddingLoss or HingeEmbeddingLoss: a sum with one term for each target.

    torch compares the targets with 1 and −1. An element counts in exactly one of the two terms, if
    its target is one of these.
    """
    sides = [n for n, _ in node.next_functions]
    if len(sides) != 2 or any(operation(n) != "Where" for n in sides):
        return None
    first, second = (_constant_elsewhere(n) for n in sides)
    positive, negative = (saved(n, "condition") for n in sides)
    if first is None or second is None or positive is None or negative is None:
        return None
    if operation(first) == "Sub" and operation(second) == "ClampMin":
        kind, is_signed = "CosineEmbeddingLoss", _differ(positive, negative)
    elif operation(first) == "ClampMin" and operation(second) != "ClampMin":
        kind, is_signed = "HingeEmbeddingLoss", _differ(positive, negative)
    else:
        return None
    return Criterion(kind, reduction, scale=math.nan, wiring=() if is_signed else (UNSIGNED_PAIRS,))


def divergence_of_probabilities(
    node: Any, masks: tuple[Tensor, ...], reduction: str
) -> Criterion | None:
    """Return a KL divergence of a softmax: target·ln(target) − target·softmax, as in kl_div."""
    constant, product = (n for n, _ in node.next_functions)
    if constant is not None or operation(product) != "Mul":
        return None
    sides = [n for n, _ in product.next_functions]
    softmax, target = sides[1], saved(product, "self")
    if sides[0] is not None or target is None or operation(softmax) != "Softmax":
        return None
    result = saved(softmax, "result")
    if result is None or result.shape != target.shape:
        return None
    return Criterion(
        "KLDivLoss",
        reduction,
        result,
        target,
        masks=masks,
        classes=target.shape[signed(softmax._saved_dim)],
        last_activation="softmax",
        activation_number=int(softmax._sequence_nr()),
        scale=math.nan,
        wiring=(PROBABILITIES,),
    )


def _constant_elsewhere(where: Any) -> Any:
    """Return the node that computed the values where the condition holds; None for a constant."""
    value, other = (n for n, _ in where.next_functions)
    return value if other is None else None


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether exactly one of two conditions holds for each element; True if it is not known."""
    if a.device.type != "cpu" or b.device.type != "cpu" or a.shape != b.shape:
        return True
    return bool(torch.logical_xor(a, b).all())
