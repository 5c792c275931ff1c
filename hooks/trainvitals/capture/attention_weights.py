"""How sharp an attention is: the largest weight of each query, from its node in a graph.

Comes in: the node of a softmax of scores, or of a fused attention. Goes out: a 0-dim tensor.
Promise:  at most 64 queries are read; nothing is kept, and nothing waits for a device.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from trainvitals.capture.graph_nodes import VIEWS, leaf_of, operation, saved, signed

QUERIES_MAX: Final = 64
"""Maximum number of queries that are read."""
ENTRIES_MAX: Final = 1 << 20
"""Maximum number of entries of their keys."""
POSITIONS_MIN: Final = 4
"""Minimum number of positions that a query sees."""
QUERIES_MIN: Final = 8
"""Minimum number of such queries."""
HIDDEN: Final = -1e3
"""Scores that a mask adds and that are below this hide a position."""
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_PRODUCTS: Final = ("Bmm", "Mm", "Baddbmm")
_SCALES: Final = VIEWS | {"Mul", "Div"}
_MASKS: Final = ("Add", "MaskedFill", "Where")


def mean_of_largest(node: Any) -> Tensor | None:
    """Return the mean over the queries of the largest weight, 0 to 1.

    None if the weights are not those of scores of computed queries and keys; NaN if too few queries
    see several positions.
    """
    found = _of_softmax(node) if operation(node).endswith("Softmax") else _of_fused(node)
    if found is None:
        return None
    weights, visible = found
    counts = visible.sum(-1) >= POSITIONS_MIN
    largest = weights.amax(-1)
    mean = torch.where(counts, largest, 0.0).sum() / counts.sum()
    return torch.where(counts.sum() >= QUERIES_MIN, mean, torch.nan)


def _of_softmax(node: Any) -> tuple[Tensor, Tensor] | None:
    """Return the weights of some queries and which positions they see, shape (queries, n)."""
    result = saved(node, "result")
    if result is None or result.dim() < 2 or result.shape[-1] < POSITIONS_MIN:
        return None
    if signed(node._saved_dim) % result.dim() != result.dim() - 1:
        return None
    is_of_pairs, is_masked = _scores(node)
    if not is_of_pairs:
        return None
    at = _chosen(result.shape[:-1], QUERIES_MAX, result.device)
    weights = result[at].float()
    # A position whose weight is 0 is hidden, or its score is low.
    return weights, weights > 0 if is_masked else torch.ones_like(weights, dtype=torch.bool)


def _scores(node: Any) -> tuple[bool, bool]:
    """Whether a softmax is of products of two computed tensors, and whether a mask lies between."""
    is_masked, waiting = False, [before for before, _ in node.next_functions]
    for _ in range(16):
        at = waiting.pop() if waiting else None
        if at is None:
            continue
        name = operation(at)
        if name in _PRODUCTS:
            sides = [before for before, _ in at.next_functions][-2:]
            if all(side is not None and leaf_of(side) is None for side in sides):
                return True, is_masked or name == "Baddbmm"
        elif name in _SCALES or name in _MASKS:
            is_masked |= name in _MASKS
            waiting += [before for before, _ in at.next_functions]
    return False, is_masked


def _of_fused(node: Any) -> tuple[Tensor, Tensor] | None:
    query, key = saved(node, "query"), saved(node, "key")
    if query is None or key is None or query.dim() != 4 or key.shape[:2] != query.shape[:2]:
        return None
    n, size = key.shape[-2:]
    if n < POSITIONS_MIN:
        return None
    samples, heads, at = _chosen(query.shape[:-1], ENTRIES_MAX // (n * size), query.device)
    scale = getattr(node, "_saved_scale", None) or 1 / math.sqrt(size)
    scores = (key[samples, heads].float() @ query[samples, heads, at].float()[..., None])[..., 0]
    visible = torch.ones_like(scores, dtype=torch.bool)
    if getattr(node, "_saved_is_causal", False):
        visible = torch.arange(n, device=query.device) <= at[:, None]
    mask = saved(node, "attn_mask") if hasattr(node, "_saved_attn_mask") else None
    if mask is None and hasattr(node, "_saved_attn_bias"):
        mask = saved(node, "attn_bias")
    scores = scale * scores
    if mask is not None:
        try:
            rows = mask.expand(*query.shape[:-1], n)[samples, heads, at]
        except RuntimeError:
            return None  # padded for the kernel
        visible = visible & (rows if rows.dtype == torch.bool else rows > HIDDEN)
        scores = scores if rows.dtype == torch.bool else scores + rows.float()
    return scores.masked_fill(~visible, -math.inf).softmax(-1).nan_to_num(), visible


def _chosen(shape: tuple[int, ...], limit: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return the indices of some queries of a tensor (…, queries, n), spread evenly."""
    rows = math.prod(shape)
    count = max(1, min(rows, QUERIES_MAX, limit))
    # Not every n-th: that could be the first query of each sequence, which sees one position only.
    places = (torch.arange(count, dtype=torch.float64, device=device) * _GOLDEN) % 1
    chosen, at = (places * rows).long(), []
    for size in reversed(shape):  # torch.unravel_index copies the sizes to the device
        at.append(chosen % size)
        chosen = chosen // size
    return tuple(reversed(at))
