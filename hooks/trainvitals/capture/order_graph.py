"""Whether a model with attention gives the same output for tokens in any order.

Comes in: the operations that depend on the vectors of the tokens. Goes out: yes or no.
Promise:  no value is read. No, if one operation is not known here: a constant of unknown shape can
          be a position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from trainvitals.capture.graph_nodes import (
    KEEP,
    inputs_of,
    leaf_of,
    operation,
    saved,
    shape_of,
    signed,
)

ATTENTIONS: Final = (
    "ScaledDotProductFlashAttention",
    "ScaledDotProductFlashAttentionForCpu",
    "ScaledDotProductEfficientAttention",
    "ScaledDotProductCudnnAttention",
)
"""Attention in one operation."""
_SOFTMAX: Final = ("Softmax", "SafeSoftmax")
_EACH_TOKEN: Final = frozenset((
    *KEEP, *_SOFTMAX, "Embedding", "Transpose", "Permute", "T", "Expand", "Relu", "Gelu", "Silu",
    "Tanh", "Sigmoid", "Elu", "LeakyRelu", "NativeDropout", "Neg", "Pow", "Rsqrt", "Sqrt",
))  # fmt: skip
"""Operations that treat the vectors of all tokens alike."""
_PARTS: Final = ("Select", "Slice", "Split", "SplitWithSizes", "Unbind", "Chunk")
_POOLS: Final = ("Mean", "Sum", "Amax", "Max", "Logsumexp")
_LAYERS: Final = ("Addmm", "Mm", "Linear")


class _State(Enum):
    TOKENS = 1
    """A vector for each token."""
    POOLED = 2
    """A mean, sum or maximum over all tokens, the same in any order."""
    UNKNOWN = 3


def is_order_blind(nodes: Iterable[Any], end: Any, samples: int, positions: int) -> bool:
    """Whether the output `end` is pooled from tokens without anything that tells their positions.

    `nodes` are the operations that depend on the vectors of (`samples`, `positions`) tokens, the
    first ones first. False without an attention: a mean of vectors ignores the order on purpose.
    """
    if positions < 2 or positions == samples:
        return False
    states: dict[Any, _State] = {}
    attends = False
    for node in nodes:
        given = {states[b] for b in inputs_of(node) if b in states}
        if given == {_State.POOLED}:
            states[node] = _State.POOLED
            continue
        states[node] = _state(node, states, samples, positions)
        if states[node] is _State.UNKNOWN:
            return False
        attends |= operation(node) in (*_SOFTMAX, *ATTENTIONS)
    return attends and states.get(end) is _State.POOLED


def _state(node: Any, states: dict[Any, _State], samples: int, positions: int) -> _State:
    """Return the state of the result of an operation on the vectors of tokens."""
    if any(positions in shape for shape in _others(node, states)):
        return _State.UNKNOWN  # a parameter of this size can be one for each position
    name = operation(node)
    if name in _POOLS:
        return _pooled(node, positions)
    alike = name in _EACH_TOKEN
    if name in _PARTS:
        alike = _size(node) not in (positions, None)
    elif name in _LAYERS:
        shape = shape_of(node, 0) or ()
        is_layer = sum(leaf_of(b) is None for b in inputs_of(node)) == 1
        alike = is_layer and math.prod(shape[:-1]) == samples * positions
    elif name == "Bmm":
        alike = all(before in states for before, _ in node.next_functions)
    elif name in ATTENTIONS:
        alike = not (getattr(node, "_saved_is_causal", False) or _has_mask(node))
    elif name in ("NativeLayerNorm", "FusedRmsNorm"):
        alike = _has_vectors(node, states)
    elif name in ("Add", "Sub", "Mul", "Div"):
        alike = _combines_alike(node, name, states)
    return _State.TOKENS if alike else _State.UNKNOWN


def _pooled(node: Any, positions: int) -> _State:
    dims, sizes = getattr(node, "_saved_dim", None), getattr(node, "_saved_self_sym_sizes", None)
    if sizes is None:
        before, index = node.next_functions[0]
        sizes = shape_of(before, index)
    if sizes is None:
        return _State.UNKNOWN
    if dims is None:  # over everything
        return _State.POOLED
    chosen = [dims] if isinstance(dims, int) else list(dims)
    over = [int(sizes[signed(dim) % len(sizes)]) for dim in chosen]
    return _State.POOLED if positions in over else _State.TOKENS


def _size(node: Any) -> int | None:
    """Return the size of the dimension along which a part was taken."""
    before, index = node.next_functions[0]
    shape, dim = shape_of(before, index), getattr(node, "_saved_dim", None)
    return shape[signed(dim) % len(shape)] if shape and dim is not None else None


def _has_mask(node: Any) -> bool:
    return any(
        getattr(node, f"_saved_{name}", None) is not None for name in ("attn_mask", "attn_bias")
    )


def _has_vectors(node: Any, states: dict[Any, _State]) -> bool:
    """Whether the other inputs are vectors, one number for each feature."""
    return all(math.prod(shape[:-1]) == 1 for shape in _others(node, states))


def _others(node: Any, states: dict[Any, _State]) -> list[tuple[int, ...]]:
    """Return the shapes of the trained inputs that are not computed from the tokens."""
    given = [(b, i) for b, i in node.next_functions if b is not None and b not in states]
    return [shape_of(before, index) or (0, 0) for before, index in given]


def _combines_alike(node: Any, name: str, states: dict[Any, _State]) -> bool:
    if not _has_vectors(node, states):
        return False
    if None not in [before for before, _ in node.next_functions]:
        return True
    if name in ("Add", "Sub"):
        return False  # torch does not show the constant
    other = saved(node, "other" if node.next_functions[1][0] is None else "self")
    if other is None:
        return False
    # By a number, or by the mask of a dropout.
    return other.dim() == 0 or tuple(other.shape) == shape_of(node, 0)
