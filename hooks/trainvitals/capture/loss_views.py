"""Views between a model's output and a loss of classes that change the meaning of a dimension.

Comes in: nodes of the graph of a loss. Goes out: yes or no, from shapes alone.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from trainvitals.capture.graph_nodes import KEEP, operation, saved, shape_of, signed

_BEFORE_A_MEAN = frozenset((*KEEP, "Mean", "Sum", "Div", "Mul", "Neg", "Add", "Sub"))
NODES_MAX = 16
"""Maximum number of views that are read."""


def normalises_other_dimension(entry: Any, log_softmax: Any, given: Tensor) -> bool:
    """Whether a log-softmax before an NLL loss normalises another dimension than the classes.

    `entry` is the node of the loss and `given` its log-probabilities, with the classes in
    dimension 1.
    """
    shape = shape_of(log_softmax, 0)
    classes = min(1, given.dim() - 1)
    if not shape:
        return False
    dim = signed(log_softmax._saved_dim) % len(shape)
    if shape[dim] != given.shape[classes]:
        return True
    if entry.next_functions[0][0] is log_softmax:
        return dim != classes
    # (samples, positions, classes) flattened to (rows, classes) keeps the last dimension, and
    # (samples, classes, 1, 1) flattened to (samples, classes) the second one.
    behind = math.prod(shape[dim + 1 :])
    return given.dim() == 2 and behind > 1 and _is_reshaped(entry, log_softmax)


def mixes_classes(log_softmax: Any, classes: int) -> bool:
    """Whether the logits were reshaped where their dimensions had to be swapped.

    (samples, positions, classes) as (samples, classes, positions), and (samples, classes, height,
    width) as (rows, classes): a row then holds numbers of several classes and positions. With a
    single position, as behind a global pooling, both orders are the same.
    """
    node, index = log_softmax.next_functions[0]
    for _ in range(NODES_MAX):
        if node is None or operation(node) not in KEEP:
            return False
        sizes, out = getattr(node, "_saved_self_sym_sizes", None), shape_of(node, index)
        if (
            sizes is not None
            and out is not None
            and _is_mixed(tuple(map(int, sizes)), out, classes)
        ):
            return True
        node, index = node.next_functions[0]
    return False


def multiplies_all_pairs(loss: Tensor) -> bool:
    """Whether a loss multiplies n trained values with n constants in an n × n matrix.

    An advantage of shape (n,) or (n, n) times log-probabilities of shape (n, 1), averaged: each
    action then has the advantage of all samples. An n × n matrix of trained values has a weight for
    each row or column on purpose.
    """
    waiting, seen = [loss.grad_fn], set[Any]()
    while waiting and len(seen) < 4 * NODES_MAX:
        node = waiting.pop()
        if node is None or node in seen or operation(node) not in _BEFORE_A_MEAN:
            continue
        seen.add(node)
        if operation(node) == "Mul" and _is_of_all_pairs(node):
            return True
        waiting += [child for child, _ in node.next_functions]
    return False


def _is_of_all_pairs(node: Any) -> bool:
    sides = [side for side, _ in node.next_functions]
    if len(sides) != 2 or (sides[0] is None) == (sides[1] is None):
        return False
    trained = 0 if sides[1] is None else 1
    constant = saved(node, "other" if trained == 0 else "self")
    shape = shape_of(node, 0)
    inner = shape_of(sides[trained], node.next_functions[trained][1])
    if constant is None or shape is None or inner is None or len(shape) != 2:
        return False
    n, given = shape[0], tuple(constant.shape)
    vectors = {given, inner} in ({(n,), (n, 1)}, {(1, n), (n, 1)})
    return 1 < n == shape[1] and (vectors or (given == (n, n) and inner in ((n,), (n, 1))))


def _is_mixed(before: tuple[int, ...], after: tuple[int, ...], classes: int) -> bool:
    if len(before) < 3 or len(after) < 2 or after[1] != classes:
        return False
    if math.prod(before) == before[0] * classes:
        return False  # one position for each sample
    if len(after) == 2:
        return before[1] == classes != before[-1]
    swapped = len(before) == len(after) and sorted(before) == sorted(after)
    return swapped and before[0] == after[0] and before[-1] == classes != before[1]


def _is_reshaped(node: Any, until: Any) -> bool:
    """Whether only operations that keep the order of the values lie between two nodes."""
    for _ in range(NODES_MAX):
        node = node.next_functions[0][0]
        if node is until or node is None:
            return node is until
        if operation(node) not in KEEP:
            return False
    return False


def broadcasts_difference(node: Any, side: int) -> bool:
    """Whether a difference expands its input number `side` to the shape of the other one."""
    inner, output = node.next_functions[side]
    shapes = shape_of(node, 0), shape_of(inner, output)
    return operation(inner) == "Expand" or (None not in shapes and len(set(shapes)) > 1)


def differs_of_all_pairs(node: Any, side: int) -> bool:
    """Whether a difference of n trained values, input number `side`, and constants is n × n.

    Values of shape (n, 1) less n constants of shape (n,), or the other way round.
    """
    inner, output = node.next_functions[side]
    whole, part = shape_of(node, 0), shape_of(inner, output)
    if whole is None or len(whole) != 2 or not 1 < whole[0] == whole[1]:
        return False
    return part in ((whole[0],), (whole[0], 1), (1, whole[0]))


def shape_mistakes(node: Any, side: int) -> tuple[str, ...]:
    """Return what is wrong with the shapes of prediction and target in a difference."""
    broadcast = ["prediction_and_target_broadcast"] * broadcasts_difference(node, side)
    return (*broadcast, *["all_pairs_compared"] * differs_of_all_pairs(node, side))


def is_expanded(tensor: Tensor | None) -> bool:
    """Whether a tensor repeats its entries along some dimensions; a constant does along all."""
    if tensor is None:
        return False
    sizes = zip(tensor.stride(), tensor.shape, strict=True)
    repeated = [stride == 0 for stride, size in sizes if size > 1]
    return any(repeated) and not all(repeated)
