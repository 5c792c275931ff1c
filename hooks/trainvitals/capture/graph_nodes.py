"""Read nodes of an autograd graph: names, saved tensors, shapes, views, the order of computation.

Comes in: a node. Goes out: what torch shows of it; nothing is computed and nothing is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from torch import Tensor

KEEP = ("View", "UnsafeView", "ReshapeAlias", "Alias", "Clone", "ToCopy", "Squeeze", "Unsqueeze")
"""Operations that keep the values and their order."""
VIEWS: Final = frozenset((*KEEP, "Transpose", "Permute", "T", "Slice", "Select", "Index", "Expand"))
"""Operations that keep the values of their first input."""
NODES_MAX: Final = 2000
"""Maximum number of nodes of a graph that is walked; a larger one is not judged."""


def origin_of(node: Any) -> int:
    """Return the sequence number of the operation that computed a node's values, without views.

    The numbers of a thread grow; two tensors with one number hold the same values or parts of them.
    """
    for _ in range(16):
        if operation(node) not in VIEWS or node.next_functions[0][0] is None:
            break
        node = node.next_functions[0][0]
    return int(node._sequence_nr())


def operation(node: Any) -> str:
    """Return the name of a node's operation: "NllLoss" for NllLossBackward0."""
    return type(node).__name__.split("Backward")[0]


def saved(node: Any, name: str) -> Tensor | None:
    """Return a saved tensor of a node, without a copy; None if it is absent, freed or packed.

    A packed tensor is not unpacked: that can run a part of the forward pass again.
    """
    try:
        raw = getattr(node, f"_raw_saved_{name}", None)
        if raw is None or getattr(raw, "unpack_hook", raw) is not None:
            return None
        value = getattr(node, f"_saved_{name}")
    except RuntimeError:
        return None  # freed by a backward, or changed in place
    return value if isinstance(value, Tensor) else None


def shape_of(node: Any, output: int) -> tuple[int, ...] | None:
    """Return the shape of a node's output of this number; None where torch does not show it."""
    metadata = getattr(node, "_input_metadata", None)  # torch 2.5 and newer
    if not metadata or output >= len(metadata):
        return None
    return tuple(metadata[output].shape)


def signed(value: int) -> int:
    """Return a number that autograd shows as unsigned 64 bits with its sign."""
    return value - 2**64 if value >= 2**63 else value


def from_the_leaves(end: Any) -> Iterator[Any]:
    """Yield each node of a graph after those that it depends on; None if there are too many."""
    done: set[Any] = set()
    waiting = [end]
    while waiting:
        if len(done) + len(waiting) > NODES_MAX:
            yield None
            return
        node = waiting[-1]
        missing = [before for before in inputs_of(node) if before not in done]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        if node not in done:
            done.add(node)
            yield node


def inputs_of(node: Any) -> list[Any]:
    """Return the nodes that computed the trained inputs of a node."""
    return [before for before, _ in node.next_functions if before is not None]


def leaf_of(node: Any) -> Tensor | None:
    """Return the parameter that a node shows, through views and casts."""
    while operation(node) in VIEWS and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return node.variable if operation(node) == "AccumulateGrad" else None
