"""Find a sigmoid or softmax that goes into the log-sigmoid of a loss, which applies sigmoid itself.

Comes in: a loss with its graph. Goes out: a token for the wiring, with the number of the operation.
Promise:  nothing is computed. Only views and a change of the sign may lie between the two
          operations: a difference of two probabilities is a score of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from torch import Tensor

from trainvitals.capture.graph_nodes import VIEWS, operation

NODES_MAX: Final = 128
"""Maximum number of nodes that are read."""
_TOKENS: Final = {
    "Sigmoid": "sigmoid_before_log_sigmoid",
    "Softmax": "softmax_before_log_sigmoid",
    "SafeSoftmax": "softmax_before_log_sigmoid",
}
_BETWEEN: Final = frozenset((
    *VIEWS, "Mean", "Sum", "Div", "Mul", "Neg", "Add", "Sub", "Stack", "Cat", "MaskedSelect",
    "MaskedFill", "Where",
))  # fmt: skip
"""Operations between a log-sigmoid and the loss."""


class Squashed(NamedTuple):
    """Probabilities that a log-sigmoid takes for logits."""

    token: str
    number: int
    """The sequence number of the operation that computed them; numbers of a thread grow."""


def before_log_sigmoid(losses: Iterable[Tensor]) -> Squashed | None:
    """Return the activation whose result a log-sigmoid of the losses takes; None without one."""
    waiting: list[Any] = [loss.grad_fn for loss in losses]
    seen: set[Any] = set()
    while waiting and len(seen) < NODES_MAX:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = operation(node)
        if name == "LogSigmoid":
            source = _source(node)
            if (token := _TOKENS.get(operation(source))) is not None:
                return Squashed(token, int(source._sequence_nr()))
        elif name in _BETWEEN:
            waiting += [before for before, _ in node.next_functions]
    return None


def _source(node: Any) -> Any:
    """Return the node that computed the input of `node`, up to views and signs."""
    at = node.next_functions[0][0]
    for _ in range(16):
        if at is None or operation(at) not in VIEWS | {"Neg"}:
            break
        at = at.next_functions[0][0]
    return at
