"""Whether a model mixes the samples of a batch, from shapes and the graph of its first output.

Comes in: the inputs of recurrent and attention modules, then a model's input and output.
Goes out: one event that says how samples are mixed, and where.
Promise:  no value is read and no tensor is kept. Silent where dimension 0 can be the time: the
          output must have one row for each sample, and the sizes must tell the dimensions apart.
Start at `MixedSamples.event`.
"""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

from torch import Tensor, nn

from trainvitals.capture.graph_nodes import KEEP, from_the_leaves, operation, shape_of, signed
from trainvitals.wire import Event, EventKind

CALLS_MAX: Final = 64
"""Maximum number of module calls whose shapes are compared."""
_SOFTMAX: Final = ("Softmax", "SafeSoftmax", "LogSoftmax")
_RESHAPES: Final = ("View", "UnsafeView", "ReshapeAlias")


class _Call(NamedTuple):
    """The input of a recurrent or attention module: (times, samples, features), or as below."""

    module: str
    kind: str
    shape: tuple[int, ...]
    samples_first: bool
    reshaped_from: tuple[int, ...]
    """The shape before the view that gave this input; () if no view did."""
    address: int
    """Where the values are, if they are in the order of the shape; otherwise 0."""


class MixedSamples:
    """Examines the first training pass of a run."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def called(self, name: str, module: nn.Module, args: object) -> None:
        """Remember the shape of the input of a recurrent or attention module."""
        x = args[0] if isinstance(args, tuple) and args else None
        if not isinstance(x, Tensor) or x.dim() != 3 or len(self._calls) >= CALLS_MAX:
            return
        first = bool(getattr(module, "batch_first", False))
        whole = x.is_contiguous()
        before = _before_view(x.grad_fn) if whole else ()
        address = x.data_ptr() if whole else 0
        kind = type(module).__name__
        self._calls.append(_Call(name, kind, tuple(x.shape), first, before, address))

    def event(self, step: int, x: Tensor | None, output: Tensor) -> Event | None:
        """Return how samples are mixed between a model's first input and its output."""
        calls, self._calls = self._calls, []
        if x is None or not _has_row_for_each_sample(x, output):
            return None
        samples = x.shape[0]
        found = _in_calls(calls, x) or _in_graph(output.grad_fn, samples)
        if found is None:
            return None
        how, attributes = found
        given = {**attributes, "samples": float(samples)}
        return Event(max(0, step), time.time(), EventKind.MIXED_SAMPLES, how, given)


def _has_row_for_each_sample(x: Tensor, output: Tensor) -> bool:
    """Whether dimension 0 of both are samples: not times with a prediction for each sample."""
    if x.dim() < 2 or output.dim() not in (1, 2) or not 1 < x.shape[0] == output.shape[0]:
        return False
    return output.dim() == 1 or output.shape[1] != x.shape[1]


def _in_calls(calls: list[_Call], x: Tensor) -> tuple[str, dict[str, str | float]] | None:
    """Return a module that gets the samples as times, or a view where a transpose was needed."""
    samples, times = x.shape[:2]
    for call in calls:
        given = call.shape[:2] if call.samples_first else call.shape[1::-1]
        attributes: dict[str, str | float] = {
            "module": call.module,
            "kind": call.kind,
            "batch_first": float(call.samples_first),
            "positions": float(given[1]),
        }
        if given[0] != samples == given[1] and given[0] > 1:
            attributes["positions"] = float(given[0])
            return "samples_as_times", attributes
        if call.samples_first or given != (samples, times) or samples == times:
            continue
        is_of_input = call.address and call.address == x.data_ptr() and x.is_contiguous()
        if is_of_input or call.reshaped_from[:2] == (samples, times):
            return "view_for_transpose", attributes
    return None


def _in_graph(end: Any, samples: int) -> tuple[str, dict[str, str | float]] | None:
    """Return a softmax over the samples, or a view that joins parts of several samples."""
    for node in from_the_leaves(end):
        if node is None:
            return None
        shape, name = shape_of(node, 0), operation(node)
        if not shape or shape[0] != samples:
            continue
        if name in _SOFTMAX and len(shape) > 1 and shape[1] != samples:
            if signed(node._saved_dim) % len(shape) == 0:
                return "softmax_over_samples", {"shape": str(shape)}
        elif name in _RESHAPES:
            before = tuple(map(int, node._saved_self_sym_sizes))
            if len(before) == 3 and before[1] == samples and before[0] not in (1, samples):
                return "parts_of_samples_joined", {"shape": str(before), "into": str(shape)}
    return None


def _before_view(node: Any) -> tuple[int, ...]:
    """Return the shape before the views that gave an input; () without one."""
    before: tuple[int, ...] = ()
    while node is not None and operation(node) in KEEP:
        sizes = getattr(node, "_saved_self_sym_sizes", None)
        before = before if sizes is None else tuple(map(int, sizes))
        node = node.next_functions[0][0]
    return before
