"""Whether a model mixes samples, or features and positions, as the shapes of its first pass show.

Comes in: the inputs of layers, then a model's input and output. Goes out: events that say what is
mixed, how and where.
Promise:  no value is read and no tensor is kept. Silent where the sizes do not tell the dimensions
          apart. Samples are only told from times if the output has one row for each sample.
Start at `MixedDimensions.events`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from torch import Tensor, nn

from trainvitals.capture.graph_nodes import KEEP, from_the_leaves, operation, shape_of, signed
from trainvitals.structure.parameters import RECURRENT
from trainvitals.wire import Event, EventKind

CALLS_MAX: Final = 64
"""Maximum number of module calls whose shapes are compared."""
_SEQUENCES: Final = (nn.MultiheadAttention, *RECURRENT)
_LAYERS: Final = (*_SEQUENCES, nn.modules.conv._ConvNd)
_SOFTMAX: Final = ("Softmax", "SafeSoftmax", "LogSoftmax")
_RESHAPES: Final = ("View", "UnsafeView", "ReshapeAlias")

Found = tuple[str, dict[str, str | float]]
"""How dimensions are mixed, and the attributes of the event."""


class _Call(NamedTuple):
    """The input of a layer."""

    module: str
    kind: str
    shape: tuple[int, ...]
    times_first: bool | None
    """Whether the module takes (times, samples, features); None for a convolution."""
    reshaped_from: tuple[int, ...]
    """The shape before the view that gave this input; () if no view did."""
    address: int
    """Where the values are, if they are in the order of the shape; otherwise 0."""


class MixedDimensions:
    """Examines the first training pass of a run."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def called(self, name: str, module: nn.Module, args: object) -> None:
        """Remember the shape of the input of a layer in which the order of dimensions matters."""
        x = args[0] if isinstance(args, tuple) and args else None
        if not isinstance(module, _LAYERS) or not isinstance(x, Tensor):
            return
        if x.dim() < 3 or len(self._calls) >= CALLS_MAX:
            return
        is_sequence = isinstance(module, _SEQUENCES) and x.dim() == 3
        times_first = not getattr(module, "batch_first", False) if is_sequence else None
        in_order = x.is_contiguous()
        self._calls.append(
            _Call(
                name,
                type(module).__name__,
                tuple(x.shape),
                times_first,
                _before_view(x.grad_fn) if in_order else (),
                x.data_ptr() if in_order else 0,
            )
        )

    def events(self, step: int, x: Tensor | None, output: Tensor) -> list[Event]:
        """Return what is mixed between a model's first input and its output."""
        calls, self._calls = self._calls, []
        if x is None:
            return []
        at = max(0, step), time.time(), EventKind.MIXED_DIMENSIONS
        found = [_features_as_positions(calls, x)]
        if _has_row_for_each_sample(x, output):
            samples = x.shape[0]
            mixed = _samples_in_calls(calls, x) or _samples_in_graph(output.grad_fn, samples)
            if mixed is not None:
                found.append((mixed[0], {**mixed[1], "samples": float(samples)}))
        return [Event(*at, *one) for one in found if one is not None]


def _features_as_positions(calls: list[_Call], x: Tensor) -> Found | None:
    """Return a layer whose input is a view where dimensions of each sample had to be swapped.

    (samples, height, width, channels) as (samples, channels, height, width), for example. Sizes of
    1 do not count: without them the order can be the same.
    """
    for call in calls:
        before = _before(call, x)
        if len(before) != len(call.shape) or before[0] != call.shape[0]:
            continue
        sizes, order = ([n for n in shape[1:] if n > 1] for shape in (before, call.shape))
        if sorted(sizes) == sorted(order) and sizes != order:
            shapes: dict[str, str | float] = {"shape": str(before), "into": str(call.shape)}
            return "features_as_positions", {"module": call.module, "kind": call.kind, **shapes}
    return None


def _before(call: _Call, x: Tensor) -> tuple[int, ...]:
    """Return the shape that a call's input had before it was reshaped; () if it was not."""
    if call.reshaped_from:
        return call.reshaped_from
    is_of_input = call.address and call.address == x.data_ptr() and x.is_contiguous()
    return tuple(x.shape) if is_of_input else ()


def _has_row_for_each_sample(x: Tensor, output: Tensor) -> bool:
    """Whether dimension 0 of both are samples: not times with a prediction for each sample."""
    if x.dim() < 2 or output.dim() not in (1, 2) or not 1 < x.shape[0] == output.shape[0]:
        return False
    return output.dim() == 1 or output.shape[1] != x.shape[1]


def _samples_in_calls(calls: list[_Call], x: Tensor) -> Found | None:
    """Return a module that gets the samples as times, or a view where a transpose was needed."""
    samples, times = x.shape[:2]
    for call in calls:
        if call.times_first is None:
            continue
        positions, rows = call.shape[:2] if call.times_first else call.shape[1::-1]
        if rows != samples == positions and rows > 1:
            return "samples_as_times", {
                "module": call.module,
                "kind": call.kind,
                "batch_first": float(not call.times_first),
                "positions": float(rows),
            }
        is_turned = call.times_first and (positions, rows) == (times, samples)
        if is_turned and samples != times and _before(call, x)[:2] == (samples, times):
            return "view_for_transpose", {
                "module": call.module,
                "kind": call.kind,
                "positions": float(times),
            }
    return None


def _samples_in_graph(end: Any, samples: int) -> Found | None:
    """Return a softmax over the samples, or a view that joins parts of several samples."""
    for node in _known(from_the_leaves(end)):
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


def _known(nodes: Iterator[Any]) -> list[Any]:
    """Return the nodes of a graph; none if there are too many."""
    found = list(nodes)
    return [] if None in found else found


def _before_view(node: Any) -> tuple[int, ...]:
    """Return the shape before the views that gave an input; () without one."""
    before: tuple[int, ...] = ()
    while node is not None and operation(node) in KEEP:
        sizes = getattr(node, "_saved_self_sym_sizes", None)
        before = before if sizes is None else tuple(map(int, sizes))
        node = node.next_functions[0][0]
    return before
