"""Count the terms of a loss that its program multiplies by the whole number 0.

Comes in: the losses of a sampled step before their backward. Goes out: their number.
Promise:  only what torch shows of the graph is read; at most `NODES_MAX` nodes of it. Nothing of
          the program is kept.
Start at `ZeroTerms.take`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from torch import Tensor

from trainvitals.capture.graph_nodes import KEEP, operation, saved
from trainvitals.capture.loss_masks import is_zero
from trainvitals.wire import Scalar

NODES_MAX: Final = 64
"""Maximum number of nodes that are read of a loss, and of each term."""
_SUMS: Final = frozenset((*KEEP, "Mean", "Sum", "Div", "Mul", "Neg", "Add", "Sub", "Stack", "Cat"))
"""Operations that add or scale terms."""
_COMPUTED: Final = frozenset(
    (
        *("Pow", "Abs", "Exp", "Log", "Sqrt", "Clamp", "ClampMin", "LinalgVectorNorm"),
        *("MseLoss", "SmoothL1Loss", "HuberLoss", "NllLoss", "NllLoss2D"),
        *("BinaryCrossEntropy", "BinaryCrossEntropyWithLogits"),
    )
)
"""Operations that make a term of outputs. A sum of outputs or parameters times 0 has none: it is
added on purpose, so that each parameter has a gradient."""


class ZeroTerms:
    """Counts the terms of each sampled step, from the first step on which there is one."""

    def __init__(self) -> None:
        self._is_seen = False

    def take(self, losses: Sequence[Tensor]) -> dict[str, float]:
        """Return the number of such terms in the losses; nothing before the first one."""
        count = sum(_is_zero_term(node) for loss in losses for node in _sums(loss.grad_fn))
        self._is_seen |= count > 0
        return {Scalar.ZERO_TERMS: float(count)} if self._is_seen else {}


def _is_zero_term(node: Any) -> bool:
    if not _is_times_zero(node):
        return False
    [term] = [n for n, _ in node.next_functions if n is not None]
    return any(_is_computed(inner) for inner in _sums(term, zeros=True))


def _is_times_zero(node: Any) -> bool:
    """Whether a node multiplies a graph by the whole number 0, as `step // steps` gives it.

    A coefficient of 0.0 or False is set in general: an entropy bonus that is not used.
    """
    if operation(node) != "Mul" or all(n is not None for n, _ in node.next_functions):
        return False
    factor = saved(node, "self" if node.next_functions[0][0] is None else "other")
    whole = factor is not None and not factor.is_floating_point() and str(factor.dtype)[6] == "i"
    return whole and is_zero(node)


def _is_computed(node: Any) -> bool:
    """Whether a node computes a term of outputs, not of parameters."""
    inputs = [n for n, _ in node.next_functions if n is not None]
    is_product = operation(node) == "Mul" and len(inputs) == 2
    if operation(node) not in _COMPUTED and not is_product:
        return False
    return any(operation(n) != "AccumulateGrad" for n in inputs)


def _sums(node: Any, *, zeros: bool = False) -> Iterator[Any]:
    """Yield the nodes that add or scale terms, and the first others below them.

    Nodes below a factor of 0 only with `zeros`.
    """
    stack, seen = [node], set[Any]()
    while stack and len(seen) < NODES_MAX:
        at = stack.pop()
        if at is None or at in seen:
            continue
        seen.add(at)
        yield at
        if operation(at) in _SUMS and (zeros or not _is_times_zero(at)):
            stack += [n for n, _ in at.next_functions]
