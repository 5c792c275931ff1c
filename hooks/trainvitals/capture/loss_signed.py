"""Find an error without a square, one of averages, and a loss of the positive targets alone.

Comes in: a loss of one term, and the prediction and target that the caller knows. Goes out: a token
          for the wiring, or "".
Promise:  nothing is computed, except that targets are compared on the CPU. The loss must be one
          chain of operations on the whole prediction: a function of it, a second term or a weight
          of each element gives "".
Start at `one_sided`. What has a healthy meaning stays silent: a critic's difference of means, a
log-probability times an advantage, a margin, a quantile loss, a penalty beside another term, an
average of several outputs that is compared with one target.
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
_DISTANCES: Final = ("MseLoss", "SmoothL1Loss", "HuberLoss")
_AVERAGES: Final = frozenset((*KEEP, "Mean", "Sum", "Neg", "Mul", "Div", "Slice"))
_CHAIN: Final = frozenset((*_AVERAGES, *_DISTANCES, "Pow", "Abs", "Sqrt", "Sub"))


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
        below = node.next_functions[trained][0]
        if name in _DISTANCES:
            return AVERAGED if _is_averaged(below, prediction, target) else ""
        if _is_even(node):
            is_even, is_averaged = True, False
        elif name in ("Mean", "Sum"):
            is_averaged |= _averages(node)
        elif name == "Sub":
            if is_even and _is_averaged(below, prediction, target):
                return AVERAGED
            if shape_of(node, 0) != prediction.shape or target.shape != prediction.shape:
                return ""
            if not _is_prediction(below, prediction):
                return ""
            return (AVERAGED if is_averaged else "") if is_even else SIGNED
        elif name in ("Mul", "Div") and (constant := _constant(node, trained)) is not None:
            is_of_targets = name == "Mul" and not is_even and _is_same(constant, target)
            is_positive = is_of_targets and _is_log_sigmoid(below, prediction)
            return POSITIVES if is_positive else ""
        node = below
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


def _averages(node: Any) -> bool:
    """Whether a node averages several entries of a sample, or averages or adds several samples."""
    shape = _input_shape(node)
    dims = _dims(node, shape)
    several = any(shape[dim] > 1 for dim in dims)
    return several and (operation(node) == "Mean" or _covers_samples(node))


def _covers_samples(node: Any) -> bool:
    """Whether a node averages or adds the first dimension, of more than one sample."""
    shape = _input_shape(node)
    return 0 in _dims(node, shape) and shape[0] > 1


def _input_shape(node: Any) -> list[int]:
    return [int(n) for n in getattr(node, "_saved_self_sym_sizes", None) or ()]


def _dims(node: Any, shape: list[int]) -> list[int]:
    """Return the dimensions that a node averages or adds; all for one that names none."""
    dims = getattr(node, "_saved_dim", None)
    return [signed(dim) % len(shape) for dim in dims] if dims and shape else [*range(len(shape))]


def _is_averaged(node: Any, prediction: Tensor, target: Tensor) -> bool:
    """Whether a node is an average of predictions whose targets differ.

    Either each prediction has its own target, or samples that have their own targets are averaged.
    """
    averages = samples = False
    for _ in range(NODES_MAX):
        if _is_prediction(node, prediction):
            own = target.numel() == prediction.numel()
            of_samples = bool(target.dim()) and len(target) == len(prediction)
            return averages and (own or (samples and of_samples))
        name, trained = operation(node), _trained(node)
        if name not in _AVERAGES or trained is None:
            return False
        if name in ("Mean", "Sum"):
            averages |= _averages(node)
            samples |= _covers_samples(node)
        elif name in ("Mul", "Div") and _constant(node, trained) is not None:
            return False  # a weight of each element
        node = node.next_functions[trained][0]
    return False


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
