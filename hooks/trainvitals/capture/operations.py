"""Find the operation that made a loss non-finite, in the autograd graph of the loss.

Comes in: a non-finite loss tensor, before its backward. Goes out: names of operations whose saved
argument or result is out of range. Runs only if a loss is non-finite.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from trainvitals.wire import Event, EventKind, Record

LOSSES_MAX: Final = 8
"""Maximum number of non-finite losses per run that are examined."""
NODES_MAX: Final = 512
"""Maximum number of nodes that are examined, breadth first from the loss."""


def _has(saved: str, test: Callable[[Tensor], Tensor]) -> Callable[[Any], bool]:
    def check(node: Any) -> bool:
        value = getattr(node, saved, None)
        return isinstance(value, Tensor) and bool(test(value).any())

    return check


_CHECKS: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "LogBackward0": ("log", _has("_saved_self", lambda x: x <= 0)),
    "Log2Backward0": ("log", _has("_saved_self", lambda x: x <= 0)),
    "Log10Backward0": ("log", _has("_saved_self", lambda x: x <= 0)),
    "SqrtBackward0": ("sqrt", _has("_saved_result", lambda x: torch.isnan(x) | (x == 0))),
    "RsqrtBackward0": ("sqrt", _has("_saved_result", lambda x: ~torch.isfinite(x))),
    "DivBackward0": ("div", _has("_saved_other", lambda x: x == 0)),
    "ReciprocalBackward0": ("div", _has("_saved_result", lambda x: ~torch.isfinite(x))),
    "ExpBackward0": ("exp", _has("_saved_result", torch.isinf)),
}
"""Class of an autograd node → the operation, and the test whether it is out of range."""


def out_of_range(loss: Tensor) -> list[str]:
    """Return the operations in the graph of `loss` (log, sqrt, div, exp) that are out of range.

    Each once, nearest to the loss first; empty if there is no graph or no such operation. Nodes
    whose saved tensors were freed by a backward are skipped.
    """
    found: list[str] = []
    waiting = deque([loss.grad_fn])
    seen = {id(loss.grad_fn)}
    while waiting and len(seen) <= NODES_MAX:
        node = waiting.popleft()
        if node is None:
            continue
        operation, is_out_of_range = _CHECKS.get(type(node).__name__, ("", None))
        if is_out_of_range and operation not in found and _holds(is_out_of_range, node):
            found.append(operation)
        for following, _ in node.next_functions:
            if following is not None and id(following) not in seen:
                seen.add(id(following))
                waiting.append(following)
    return found


def _holds(check: Callable[[Any], bool], node: Any) -> bool:
    try:
        with torch.no_grad():
            return check(node)
    except RuntimeError:
        return False  # the saved tensors were freed


class LossEvents:
    """Emits an event for each of a run's first non-finite losses."""

    def __init__(self, emit: Callable[[Record], None]) -> None:
        self._emit = emit
        self._count = 0

    def add(self, loss: object, step: int) -> None:
        """Examine the graph of a non-finite loss of `step` and emit the result."""
        if self._count >= LOSSES_MAX or not isinstance(loss, Tensor):
            return
        self._count += 1
        text = ",".join(out_of_range(loss))
        self._emit(Event(max(0, step), time.time(), EventKind.NONFINITE_LOSS, text))
