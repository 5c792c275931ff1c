"""Find a loss that is an error without a square, and one that learns the positive targets alone.

Comes in: a loss of one term, and the prediction and target that the caller knows. Goes out: a token
          for the wiring, or "".
Promise:  nothing is computed, except that targets are compared on the CPU. The loss must be one
          chain of operations on the whole prediction: a function of it, a second term or a weight
          of each element gives "".
Start at `one_sided`. What has a healthy meaning stays silent: a critic's difference of means, a
log-probability times an advantage, a margin, a quantile loss, a penalty beside another term.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from trainvitals.capture.graph_nodes import KEEP, operation, origin_of, saved, shape_of, signed
from trainvitals.capture.loss import Seen
from trainvitals.capture.supervised_values import sample

SIGNED: Final = "error_without_a_square"
AVERAGED: Final = "error_averaged_before_the_square"
POSITIVES: Final = "targets_times_log_sigmoid"
NODES_MAX: Final = 16
"""Maximum number of nodes that are read."""
_CHAIN: Final = frozenset((*KEEP, "Mean", "Sum", "Neg", "Mul", "Div", "Pow", "Abs", "Sqrt", "Sub"))


def one_sided(loss: object, seen: Seen) -> str:
    """Return what is wrong with a loss that compares `seen.prediction` with `seen.target`."""
    prediction, target = seen.prediction, seen.target
    if not isinstance(loss, Tensor) or not isinstance(prediction, Tensor):
        return ""
    if not isinstance(target, Tensor) or prediction.grad_fn is None:
        return ""
    node: Any = loss.grad_fn
    is_even = is_averaged = False
    for _ in range(NODES_MAX):
        name, trained = operation(node), _trained(node)
        if name not in _CHAIN or trained is None:
            return ""
        if _is_even(node):
            is_even, is_averaged = True, False
        elif name in ("Mean", "Sum"):
            is_averaged |= _covers_samples(node)
        elif name == "Sub":
            if shape_of(node, 0) != prediction.shape or target.shape != prediction.shape:
                return ""
            if not _is_prediction(node.next_functions[trained][0], prediction):
                return ""
            return (AVERAGED if is_averaged else "") if is_even else SIGNED
        elif name in ("Mul", "Div") and (constant := _constant(node, trained)) is not None:
            logarithm = node.next_functions[trained][0]
            is_of_targets = name == "Mul" and not is_even and _is_same(constant, target)
            is_positive = is_of_targets and _is_log_sigmoid(logarithm, prediction)
            return POSITIVES if is_positive else ""
        node = node.next_functions[trained][0]
    return ""


def _trained(node: Any) -> int | None:
    """Return the number of the only trained input; None if there are several different ones."""
    inputs = node.next_functions
    numbers = [i for i, (below, _) in enumerate(inputs) if below is not None]
    if not numbers or len({inputs[i] for i in numbers}) > 1:
        return None
    return numbers[0]


def _is_even(node: Any) -> bool:
    """Whether a node returns the same for a value and its negative."""
    name = operation(node)
    if name == "Mul":
        return None not in [below for below, _ in node.next_functions]  # by itself
    exponent = getattr(node, "_saved_exponent", 1)
    return name == "Abs" or (isinstance(exponent, (int, float)) and exponent % 2 == 0)


def _constant(node: Any, trained: int) -> Tensor | None:
    """Return the constant of each element that multiplies or divides them; None for a number."""
    constant = saved(node, "other" if trained == 0 else "self")
    return constant if constant is not None and constant.dim() else None


def _covers_samples(node: Any) -> bool:
    """Whether a node averages the first dimension, of more than one sample."""
    shape = [int(n) for n in getattr(node, "_saved_self_sym_sizes", None) or ()]
    if len(shape) < 1 or shape[0] < 2:
        return False
    dims = getattr(node, "_saved_dim", None)
    return not dims or 0 in [signed(dim) % len(shape) for dim in dims]


def _is_prediction(node: Any, prediction: Tensor) -> bool:
    return origin_of(node) == origin_of(prediction.grad_fn)


def _is_log_sigmoid(node: Any, prediction: Tensor) -> bool:
    below = node.next_functions[0][0]
    if operation(node) == "Log" and operation(below) == "Sigmoid":
        node, below = below, below.next_functions[0][0]
    elif operation(node) != "LogSigmoid":
        return False
    return below is not None and _is_prediction(below, prediction)


def _is_same(constant: Tensor, target: Tensor) -> bool:
    """Whether two tensors are one, or on the CPU have equal values."""
    if constant.shape != target.shape or constant.device != target.device:
        return False
    if constant.dtype == target.dtype and constant.data_ptr() == target.data_ptr():
        return True
    return target.is_cpu and torch.equal(sample(constant), sample(target).to(constant.dtype))
