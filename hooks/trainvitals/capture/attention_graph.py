"""Which positions attention sees, and how sharp it is, from the graph of a model's first output.

Comes in: the models, then a model's first input and one output of a training step.
Goes out: one event that names the layers, and scalars, 0-dim tensors on the device.
Promise:  no tensor of the program is kept, nothing waits for a device, and a packed tensor is not
          unpacked. An attention whose operation is not known here is left out.
Start at `AttentionGraph.take`.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from trainvitals.capture.attention_weights import HIDDEN, POSITIONS_MIN, mean_of_largest
from trainvitals.capture.graph_nodes import (
    VIEWS,
    from_the_leaves,
    inputs_of,
    leaf_of,
    operation,
    saved,
    signed,
)
from trainvitals.capture.order_graph import ATTENTIONS, is_order_blind
from trainvitals.wire import Event, EventKind, Scalar

LAYERS_MAX: Final = 64
"""Maximum number of attentions that are named."""
SEEN_MIN: Final = 0.99
"""Share of the next positions that are seen, from which an attention is not causal."""
_SOFTMAX: Final = ("Softmax", "SafeSoftmax")
_PRODUCTS: Final = ("Bmm", "Mm", "Baddbmm")
_KEEPS_ZEROS: Final = VIEWS | {"NativeDropout"}


class _Graph(NamedTuple):
    """The operations between the parameters and the output, the first ones first."""

    nodes: list[Any]
    users: dict[Any, list[Any]]
    """Operation → those that take its result."""
    reading: set[Any]
    """Operations that depend on an embedding of the model's first input."""


class AttentionGraph:
    """Examines the graph of one output of a run."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self._models = models

    def take(
        self, step: int, x: Tensor | None, output: Tensor
    ) -> tuple[Event | None, dict[str, Tensor]]:
        """Return what the graph of `output` shows; `x` is the model's first input."""
        tokens = x if x is not None and len(self._models) == 1 and _is_of_tokens(x) else None
        graph = _graph_of(output.grad_fn, tokens)
        if graph is None:
            return None, {}
        layers = [node for node in graph.nodes if _is_attention(node, graph.users)][:LAYERS_MAX]
        attributes: dict[str, str | float] = {}
        if reversed_ := self._reversed(graph):
            attributes["reversed"] = reversed_
        if tokens is not None:
            reading = [node for node in graph.nodes if node in graph.reading]
            if is_order_blind(reading, output.grad_fn, *tokens.shape):
                attributes["order_blind"] = 1.0
        if not layers and not attributes:
            return None, {}
        names = {id(p): name for name, p in self._named_parameters()}
        text = ",".join(_name_of(node, names) for node in layers)
        event = Event(max(0, step), time.time(), EventKind.ATTENTION, text, attributes)
        return event, _next_positions(layers, graph, tokens) | _largest_weights(layers)

    def _reversed(self, graph: _Graph) -> str:
        """Return the recurrent module that reads the tokens backwards too; "" without."""
        backward: dict[int, str] = {
            id(parameter): name
            for prefix, model in self._models.items()
            for name, module in model.named_modules(prefix=prefix)
            if isinstance(module, nn.RNNBase) and module.bidirectional
            for key, parameter in module.named_parameters(recurse=False)
            if key.endswith("_reverse")
        }
        if not backward:
            return ""
        for node in graph.nodes:
            if node in graph.reading:
                for before in inputs_of(node):
                    if (name := backward.get(id(leaf_of(before)))) is not None:
                        return name
        return ""

    def _named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, model in self._models.items():
            yield from model.named_parameters(prefix=prefix)


def _graph_of(end: Any, x: Tensor | None) -> _Graph | None:
    """Return the operations before `end`; None if there are too many."""
    graph = _Graph([], defaultdict(list), set())
    for node in from_the_leaves(end):
        if node is None:
            return None
        graph.nodes.append(node)
        before = inputs_of(node)
        for b in before:
            graph.users[b].append(node)
        if (x is not None and _embeds(node, x)) or any(b in graph.reading for b in before):
            graph.reading.add(node)
    return graph


def _embeds(node: Any, x: Tensor) -> bool:
    if operation(node) != "Embedding":
        return False
    indices = saved(node, "indices")
    return (
        indices is not None
        and indices.numel() == x.numel()
        and indices.device == x.device
        and indices.data_ptr() == x.data_ptr()
    )


def _next_positions(layers: list[Any], graph: _Graph, x: Tensor | None) -> dict[str, Tensor]:
    """Return the number of the first layer in which the positions of `x` see the next ones."""
    if x is None:
        return {}
    samples, n = x.shape
    seen = {
        number: share
        for number, node in enumerate(layers)
        if node in graph.reading and (share := _next_seen(node, samples, n)) is not None
    }
    if not seen:
        return {}
    sees = torch.stack(list(seen.values())) >= SEEN_MIN
    numbers = torch.tensor(list(seen), dtype=torch.float32).to(sees.device, non_blocking=True)
    return {
        Scalar.ATTENTION_AHEAD: torch.where(
            sees.any(), numbers.take(sees.int().argmax()), torch.nan
        )
    }


def _largest_weights(layers: list[Any]) -> dict[str, Tensor]:
    """Return the mean of the largest weights of the layer where it is largest, and its number."""
    found = {
        n: mean for n, node in enumerate(layers) if (mean := mean_of_largest(node)) is not None
    }
    if not found:
        return {}
    means = torch.stack([m.nan_to_num(-1.0) for m in found.values()])
    numbers = torch.tensor(list(found), dtype=torch.float32).to(means.device, non_blocking=True)
    return {
        Scalar.ATTENTION_LARGEST: means.amax(),
        Scalar.ATTENTION_SHARPEST: numbers.take(means.argmax()),
    }


def _next_seen(node: Any, samples: int, n: int) -> Tensor | None:
    """Return the share of the positions that see the next one, of those where that is a token.

    None if this is no attention between the `n` positions of each of some `samples`, or one whose
    weights are not shown.
    """
    if n < POSITIONS_MIN or n == samples:
        return None  # attention between samples would look the same
    if operation(node) in ATTENTIONS:
        visible = _visible_to_queries(node, samples, n)
    else:
        visible = _visible_weights(node, samples, n)
    if visible is None:
        return None
    following = visible.diagonal(1, -2, -1)
    is_token = visible.any(-2)[..., 1:]  # no position sees padding
    share: Tensor = (following & is_token).sum() / is_token.sum()
    return share


def _visible_weights(node: Any, samples: int, n: int) -> Tensor | None:
    """Return which weights of a softmax are not 0, shape (..., n, n)."""
    weights = saved(node, "result")
    if weights is None or weights.dim() < 3 or not _is_plain(weights):
        return None
    if signed(node._saved_dim) % weights.dim() != weights.dim() - 1:
        return None
    if weights.shape[-2] != n or not _is_between_positions(weights.shape, samples, n):
        return None
    return weights > 0


def _visible_to_queries(node: Any, samples: int, n: int) -> Tensor | None:
    """Return which positions a fused attention does not mask, shape (..., n, n)."""
    query, key = saved(node, "query"), saved(node, "key")
    if query is None or key is None or not _is_plain(query) or query.dim() != 4:
        return None
    if key.shape[-2] != n or not _is_between_positions((*query.shape[:-1], n), samples, n):
        return None
    everything = torch.ones((n, n), dtype=torch.bool, device=query.device)
    if getattr(node, "_saved_is_causal", False):
        return everything.tril()
    name = next((m for m in ("attn_mask", "attn_bias") if hasattr(node, f"_saved_{m}")), "")
    if not name:
        return everything
    mask = saved(node, name)
    if mask is None:
        return everything
    if mask.dim() < 2 or mask.shape[-1] != n or mask.shape[-2] not in (1, n):
        return None
    shown = mask if mask.dtype == torch.bool else mask > HIDDEN
    return shown.expand(*shown.shape[:-2], n, n)


def _is_between_positions(shape: tuple[int, ...], samples: int, n: int) -> bool:
    """Whether scores (..., n, n) are those between the positions of each sample.

    Not if another dimension has the size n too: it can be that of the positions.
    """
    return shape[-2] == n and n not in shape[:-2] and math.prod(shape[:-2]) % samples == 0


def _is_attention(node: Any, users: Mapping[Any, list[Any]]) -> bool:
    """Whether the weights of a node are those of values, and are not changed by a mask."""
    if operation(node) in ATTENTIONS:
        return saved(node, "query") is not None and saved(node, "key") is not None
    return operation(node) in _SOFTMAX and _is_of_values(node, users)


def _is_of_values(node: Any, users: Mapping[Any, list[Any]]) -> bool:
    """Whether only products of matrices take the result of a softmax: no mask hides parts of it."""
    waiting = list(users[node])
    found = bool(waiting)
    while waiting:
        user = waiting.pop()
        if operation(user) in _KEEPS_ZEROS:
            waiting += users[user]
        elif operation(user) not in _PRODUCTS:
            found = False
    return found


def _name_of(node: Any, names: Mapping[int, str]) -> str:
    """Return the module of the nearest parameter before a node; "" if there is none."""
    waiting, done = deque(inputs_of(node)), set()
    while waiting:
        at = waiting.popleft()
        if at in done:
            continue
        done.add(at)
        if operation(at) == "AccumulateGrad" and id(at.variable) in names:
            return names[id(at.variable)].rpartition(".")[0]
        waiting += inputs_of(at)
    return ""


def _is_of_tokens(x: Tensor) -> bool:
    integers = x.dtype in (torch.int64, torch.int32)
    return integers and x.dim() == 2 and x.numel() > 0 and _is_plain(x)


def _is_plain(x: Tensor) -> bool:
    return x.layout is torch.strided and not x.is_nested and not hasattr(x, "full_tensor")
