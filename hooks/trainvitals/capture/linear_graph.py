"""Whether the graph of a model's output contains no nonlinear operation: layers in a row.

Comes in: the models, then one output of a training step. Goes out: one event with the weights of
the longest row of layers, if every operation between them and the output is linear or a norm.
Promise:  silent if one operation is not known here, or is a product of two computed tensors.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from trainvitals.capture.graph_nodes import (
    VIEWS,
    from_the_leaves,
    inputs_of,
    leaf_of,
    operation,
    saved,
)
from trainvitals.wire import Event, EventKind

LAYERS_MIN: Final = 3
"""Layers in a row from which the event is emitted: two are a factorised layer."""
_PRODUCTS: Final = frozenset({"Addmm", "Mm", "Bmm", "Mv", "Linear", "Convolution", "Mul"})
"""Linear as long as one factor at most is computed from a layer."""
_LINEAR: Final = VIEWS - {"Index"} | {
    "Neg", "Mean", "Sum", "Cat", "Stack", "Split", "SplitWithSizes", "Unbind", "Chunk", "AvgPool2D",
    "AdaptiveAvgPool2D", "ConstantPadNd", "PixelShuffle", "NativeDropout", "Roll", "Flip",
    "Repeat", "Embedding", "AccumulateGrad", "UpsampleNearest2D",
    "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "NativeLayerNorm", "NativeGroupNorm",
}  # fmt: skip


class LinearGraph:
    """Examines the graph of one output of a run."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self._models = models

    def event(self, step: int, output: Tensor) -> Event | None:
        """Return the event if the network is linear; None otherwise."""
        row = _longest_row(output.grad_fn, has_dropout=self._has_dropout())
        if len(row) < LAYERS_MIN:
            return None
        names = {
            id(parameter): name
            for prefix, model in self._models.items()
            for name, parameter in model.named_parameters(prefix=prefix)
        }
        if any(id(weight) not in names for weight in row):
            return None
        text = ",".join(names[id(weight)] for weight in row)
        return Event(max(0, step), time.time(), EventKind.LINEAR_NETWORK, text)

    def _has_dropout(self) -> bool:
        return any(
            isinstance(m, _DropoutNd) for model in self._models.values() for m in model.modules()
        )


def _longest_row(end: Any, *, has_dropout: bool) -> list[Tensor]:
    """Return the weights of the longest row of layers before `end`, the first layer first.

    Empty if an operation is not linear, or not known.
    """
    rows: dict[Any, list[Tensor]] = {}
    for node in from_the_leaves(end):
        if node is None or not _is_linear(node, has_dropout=has_dropout):
            return []
        computed = [rows[before] for before in inputs_of(node)]
        longest = max(computed, key=len, default=[])
        weight = _weight_of(node)
        rows[node] = longest if weight is None else [*longest, weight]
    return rows.get(end, [])


def _is_linear(node: Any, *, has_dropout: bool) -> bool:
    name = operation(node)
    has_constant = None in [before for before, _ in node.next_functions]
    if name == "Mul" and has_constant:
        other = saved(node, "other" if node.next_functions[1][0] is None else "self")
        # By a number, or by the mask of a dropout; any other mask can depend on the values.
        return has_dropout or (other is not None and other.dim() == 0)
    if name == "Div":
        other = saved(node, "other")
        return node.next_functions[1][0] is None and other is not None and other.dim() == 0
    if name in ("Add", "Sub"):
        # A constant that is added can depend on the values: `x + (round(x) - x).detach()`.
        return not has_constant
    if name in _PRODUCTS:
        return sum(leaf_of(before) is None for before in inputs_of(node)) <= 1
    return name in _LINEAR


def _weight_of(node: Any) -> Tensor | None:
    """Return the matrix of a layer that this node applies."""
    if operation(node) not in _PRODUCTS - {"Mul"}:
        return None
    leaves = [leaf for before in inputs_of(node) if (leaf := leaf_of(before)) is not None]
    return next((leaf for leaf in leaves if leaf.dim() >= 2), None)
