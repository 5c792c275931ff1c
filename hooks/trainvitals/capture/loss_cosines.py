"""Whether logits are cosines of two vectors, without a scale.

Comes in: the node of the logits. Goes out: yes or no, from the operations alone.
"""

from __future__ import annotations

from typing import Any, Final

from trainvitals.capture.graph_nodes import KEEP, VIEWS, operation
from trainvitals.capture.loss_scale import factor

COSINES: Final = "cosines_as_logits"
_PRODUCTS: Final = ("Mm", "Bmm", "Mul")
_OF_A_NORM: Final = (*KEEP, "Expand", "ClampMin", "Maximum", "Add")
_NORMS: Final = ("LinalgVectorNorm", "Norm")
NODES_MAX: Final = 8
"""Maximum number of operations between a vector and its norm."""


def are_cosines(node: Any) -> bool:
    """Whether logits are products of vectors that were divided by their norms.

    As `F.normalize(x) @ F.normalize(w).T` and `F.cosine_similarity`; not with a temperature behind
    them or a factor above 1 on one of the two.
    """
    node = _through(node, (*VIEWS, "Sum"))
    if node is None or operation(node) not in _PRODUCTS or len(node.next_functions) != 2:
        return False
    return all(_is_of_length_one(side) for side, _ in node.next_functions)


def _is_of_length_one(node: Any) -> bool:
    node = _through(node, tuple(VIEWS))
    if node is None or operation(node) != "Div" or len(node.next_functions) != 2:
        return False
    norm = _through(node.next_functions[1][0], _OF_A_NORM)
    return norm is not None and operation(norm) in _NORMS


def _through(node: Any, operations: tuple[str, ...]) -> Any:
    for _ in range(NODES_MAX):
        if node is None or not node.next_functions:
            break
        if operation(node) in operations:
            node = node.next_functions[0][0]
        elif operation(node) in ("Mul", "Div") and abs(factor(node)) <= 1:  # by a number
            node = next(side for side, _ in node.next_functions if side is not None)
        else:
            break
    return node
