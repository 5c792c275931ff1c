"""Read a connectionist temporal classification (CTC) in the graph of a loss.

Comes in: the node of the loss, and the operation that computed its input. Goes out: a `Criterion`
          whose mask has one entry for each sequence: 0 if its loss is infinite.
Promise:  nothing is changed. The values of the log-probabilities are read on the CPU only.
Start at `temporal_classification`.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from trainvitals.capture.graph_nodes import KEEP, VIEWS, operation, saved, shape_of, signed
from trainvitals.capture.loss_criterion import Criterion
from trainvitals.capture.supervised_values import sample

CTC: Final = "CTCLoss"
NODES: Final = ("CtcLoss", "CudnnCtcLoss")
SUM_TOLERANCE: Final = 0.05
"""Maximum difference of a sum of probabilities from 1: those in bfloat16 are rounded."""
NODES_MAX: Final = 16
"""Maximum number of views that are read."""
_LINEAR: Final = ("Addmm", "Mm", "Bmm", "Convolution", "Linear")
_WITH_A_CONSTANT: Final = frozenset((*VIEWS, "Add", "Sub", "Mul", "Div"))
_WHOLE: Final = frozenset((*KEEP, "Transpose", "Permute", "T"))
"""Views that show all values of their input."""


def temporal_classification(
    node: Any, reduction: str, source: Any, last: str, conflict: tuple[str, ...]
) -> Criterion:
    """Return the loss; `source` computed its input, `last` is its name if it is an activation.

    The input has the shape (frames, sequences, symbols) or (frames, symbols). A sequence with fewer
    frames than symbols has an infinite loss, or one of 0 with `zero_infinity`.
    """
    losses = saved(node, "result0")
    wiring = list(conflict)
    if given := _readable(saved(node, "log_probs")):
        if last == "log_softmax" and _normalises_other_dimension(node, source, given[0]):
            wiring.append("log_softmax_over_wrong_dimension")
        elif not last and _is_not_normalised(source, given[0]):
            wiring.append("no_log_softmax_before_ctc_loss")
    if _exchanges_dimensions(node):
        wiring.append("frames_mixed_by_a_view")
    return Criterion(
        CTC,
        reduction,
        masks=() if losses is None else (losses.detach() != torch.inf,),
        last_activation=last,
        wiring=tuple(wiring),
    )


def _readable(given: Tensor | None) -> tuple[Tensor, ...]:
    return () if given is None or given.dim() < 2 else (given.detach(),)


def _normalises_other_dimension(node: Any, log_softmax: Any, given: Tensor) -> bool:
    """Whether the exponentials of the log-probabilities sum to 1 over another dimension."""
    at = node.next_functions[0][0]
    for _ in range(NODES_MAX):
        if at is log_softmax:
            break
        if operation(at) not in _WHOLE:
            return False  # a part of the classes
        at = at.next_functions[0][0]
    shape = shape_of(log_softmax, 0)
    if shape and shape[signed(log_softmax._saved_dim) % len(shape)] != given.shape[-1]:
        return True
    sums = _sums(given)
    return sums is not None and bool(((sums - 1).abs() > SUM_TOLERANCE).any())


def _is_not_normalised(source: Any, given: Tensor) -> bool:
    """Whether the exponentials sum to more than 1, or to another number behind a linear layer.

    A program can leave out symbols or subtract a prior, but not from the outputs of a layer.
    """
    sums = _sums(given)
    if sums is None:
        return False
    for _ in range(NODES_MAX):
        trained = [below for below, _ in source.next_functions if below is not None]
        if len(trained) != 1 or operation(source) not in _WITH_A_CONSTANT:
            break
        source = trained[0]
    if operation(source) in ("LogSoftmax", "Log"):
        return False
    above = sums - 1
    return bool(((above.abs() if _is_linear(source) else above) > SUM_TOLERANCE).any())


def _is_linear(node: Any) -> bool:
    """Whether a node is a layer without an activation, or adds its bias."""
    inputs = [operation(below) for below, _ in node.next_functions]
    return operation(node) in _LINEAR or (operation(node) == "Add" and "AccumulateGrad" in inputs)


def _sums(given: Tensor) -> Tensor | None:
    """Return the sums of the probabilities over the symbols, of a sample: CPU only."""
    if given.device.type != "cpu":
        return None
    return sample(given, whole=-1).float().exp().sum(-1)


def _exchanges_dimensions(node: Any) -> bool:
    """Whether values were reshaped where the first two dimensions had to be exchanged.

    (sequences, frames, symbols) as (frames, sequences, symbols): the frames of a sequence then come
    from several sequences.
    """
    at, output = node.next_functions[0]
    after = None
    for _ in range(NODES_MAX):
        if at is None:
            return False
        if operation(at) in KEEP:
            after = after or shape_of(at, output)
        else:
            if _is_exchanged(shape_of(at, output), after):
                return True
            after = None
            if operation(at) not in VIEWS:
                return False
        at, output = at.next_functions[0]
    return False


def _is_exchanged(before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> bool:
    if before is None or after is None or len(before) < 2:
        return False
    first, second, *others = before
    return first != second and min(first, second) > 1 and after == (second, first, *others)
