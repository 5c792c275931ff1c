"""Which positions of a sequence model's output a loss reads, from the autograd graph.

Comes in: the node of a cross entropy (`Criterion.entry`) and the number of the node that computed
          the model's output. Goes out: the first position, and whether the loss reads this output.
Promise:  nothing is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from trainvitals.capture.graph_nodes import VIEWS, operation, shape_of, signed

NODES_MAX: Final = 24
"""Maximum number of nodes between a loss and the output of the model."""


@dataclass(frozen=True)
class Positions:
    """The part of an output of shape (samples, positions, classes) that a loss reads."""

    first: int | None
    """The first position; None if it is not known: positions are selected by an index or a mask."""
    of_output: bool
    """Whether the loss reads the output with the given number."""
    entries: int
    """Number of entries of the tensor at which the search ended; 0 if unknown."""


def positions_read(entry: Any, classes: int, output: int) -> Positions:
    """Return the positions that a loss reads.

    `entry` is the loss's node, `output` the sequence number of the node of the model's output. The
    search ends there, or at the first node that is neither a view nor a log-softmax.
    """
    place: int | None = 0
    node, index = entry.next_functions[0]
    for _ in range(NODES_MAX):
        if node is None:
            return Positions(place, of_output=False, entries=0)
        name = operation(node)
        is_output = node._sequence_nr() == output
        if is_output or (name not in VIEWS and name != "LogSoftmax"):
            return Positions(place, is_output, math.prod(shape_of(node, index) or (0,)))
        if name in ("Index", "Expand"):
            place = None
        elif name in ("Slice", "Select") and place is not None:
            place = _before(node, name, place, classes)
        node, index = node.next_functions[0]
    return Positions(None, of_output=False, entries=0)


def _before(node: Any, name: str, place: int, classes: int) -> int | None:
    """Return the position that was at `place` after a slice; None if it is not known."""
    sizes = tuple(int(n) for n in node._saved_self_sym_sizes)
    dim = signed(node._saved_dim) % len(sizes)
    start = signed(node._saved_index if name == "Select" else node._saved_start)
    start = start + sizes[dim] if start < 0 else start
    if name == "Slice":
        end = signed(node._saved_end)
        if node._saved_step != 1:
            return None
        if start == 0 and end >= sizes[dim]:
            return place
    if len(sizes) != 3 or dim == 0:
        return None
    class_dim = 1 if sizes[1] == classes and sizes[2] != classes else 2
    if dim != class_dim:
        return start + place
    return place if name == "Slice" and start == 0 else None
