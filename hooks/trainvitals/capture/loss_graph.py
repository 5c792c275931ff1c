"""Read the kind of a loss, its prediction, target and masks in the loss's autograd graph.

Comes in: a loss tensor before its backward. Goes out: one `Criterion` for each loss function found,
          and whether the loss consists of them alone.
Promise:  nothing is computed and nothing is changed; a compiled graph, a freed graph and tensors
          that a hook packed (activation checkpointing, offloading) give an empty answer.
Start at `criteria`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import Tensor

from trainvitals.capture.graph_nodes import KEEP, VIEWS, operation, saved, shape_of, signed
from trainvitals.capture.loss_cosines import COSINES, are_cosines
from trainvitals.capture.loss_criterion import Criterion, Found
from trainvitals.capture.loss_masks import is_zero, mask_of
from trainvitals.capture.loss_normal import normal
from trainvitals.capture.loss_pairs import divergence_of_probabilities, pairs
from trainvitals.capture.loss_scale import (
    factor,
    factors_of_inputs,
    own_factor,
    own_factor_of_classes,
)
from trainvitals.capture.loss_sequences import CTC, temporal_classification
from trainvitals.capture.loss_sequences import NODES as CTC_NODES
from trainvitals.capture.loss_views import (
    is_expanded,
    mixes_classes,
    normalises_other_dimension,
    shape_mistakes,
)

NODES_MAX: Final = 128
"""Maximum number of nodes that are read."""
CRITERIA_MAX: Final = 8
"""Maximum number of loss functions that are returned."""

_ELEMENTWISE: Final = {
    "MseLoss": "MSELoss",
    "SmoothL1Loss": "SmoothL1Loss",
    "HuberLoss": "HuberLoss",
    "BinaryCrossEntropy": "BCELoss",
    "BinaryCrossEntropyWithLogits": "BCEWithLogitsLoss",
    "SoftMarginLoss": "SoftMarginLoss",
    "MultiMarginLoss": "MultiMarginLoss",
    "MultilabelMarginLoss": "MultiLabelMarginLoss",
}
"""Operation → the loss module of torch that computes the same."""

_ACTIVATIONS: Final = {
    "Softmax": "softmax",
    "SafeSoftmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "log_sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "Softplus": "softplus",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "LeakyRelu": "leaky_relu",
    "Elu": "elu",
    "Gelu": "gelu",
    "Silu": "silu",
    "Exp": "exp",
    "Log": "log",
}
_CONFLICTS: Final = {
    "CrossEntropyLoss": {"softmax", "sigmoid", "relu", "tanh"},
    "NLLLoss": {"softmax", "sigmoid", "relu", "tanh"},
    "BCEWithLogitsLoss": {"softmax", "sigmoid", "log_softmax", "log_sigmoid", "relu", "tanh"},
    "BCELoss": {"relu", "tanh"},
    CTC: {"softmax", "sigmoid", "relu", "tanh"},
}
"""Kind of loss → activations whose result it must not be given."""

MEAN_OF_SUMS: Final = "mean_of_sums"
"""Reduction of a loss whose elements are summed in each sample, and these sums averaged."""
_ARITHMETIC = ("Mean", "Sum", "Div", "Mul", "Neg", "Add", "Sub", "Sqrt", "Stack", "Cat")
_SELECTIONS = ("Index", "MaskedSelect", "MaskedFill", "Where")
_REDUCTIONS: Final = frozenset((*KEEP, *_ARITHMETIC, *_SELECTIONS))
"""Operations between a loss function and the loss that is reported."""


@dataclass(frozen=True)
class _Path:
    """What lies between the reported loss and a loss function."""

    masks: tuple[Tensor, ...] = ()
    reduction: str = ""
    ignored: bool = False
    scale: float = 1.0
    averaged: bool = False
    """Whether a mean was taken, of sums or of elements."""
    sums: bool = False
    """Whether the mean is of sums over several elements."""

    def through(self, node: Any, name: str) -> _Path:
        """Return the path with one more node."""
        reduction = self.reduction
        if name in ("Mean", "Sum") and not (reduction == "mean" and name == "Sum"):
            reduction = name.lower()
        elif name == "Div":
            reduction = reduction or "mean"
        mask, scale = mask_of(node, name), factor(node)
        return _Path(
            self.masks if mask is None else (*self.masks, mask),
            reduction,
            self.ignored or (name == "Mul" and is_zero(node)),
            self.scale * scale,
            self.averaged or name == "Mean",
            self.sums or (self.averaged and name == "Sum" and scale > 1),
        )


def criteria(loss: Tensor) -> Found:
    """Return the loss functions in the graph of `loss`; none if none is found."""
    found: list[Criterion] = []
    stack: list[tuple[Any, _Path]] = [(loss.grad_fn, _Path())]
    seen: set[Any] = set()
    is_whole, is_stacked = True, False
    while stack and len(seen) < NODES_MAX and len(found) < CRITERIA_MAX:
        node, path = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        criterion = _criterion(node, path.masks, path.reduction)
        if criterion is not None:
            scale = math.nan if path.masks else path.scale * criterion.scale
            criterion = replace(criterion, scale=scale)
            if path.sums and not criterion.classes and criterion.reduction == "mean":
                criterion = replace(criterion, reduction=MEAN_OF_SUMS)
            found.append(_with_zero_weight(criterion) if path.ignored else criterion)
            continue
        name = operation(node)
        # A term divided by its own variance is not divided by a number of elements.
        other_unit = name == "Div" and _is_large(saved(node, "other"))
        if name not in _REDUCTIONS or (other_unit and not _divides_ctc(node)):
            is_whole = False
            continue
        path = path.through(node, name)
        is_stacked |= name in ("Stack", "Cat")
        inputs = zip(node.next_functions, factors_of_inputs(node), strict=True)
        paths = [(n, replace(path, scale=path.scale * f)) for (n, _), f in inputs]
        stack += reversed(paths)
    return Found(found, is_whole and not stack, is_stacked)


def _criterion(node: Any, masks: tuple[Tensor, ...], reduction: str) -> Criterion | None:
    name = operation(node)
    if name in ("NllLoss", "NllLoss2D"):
        return _classification(node, masks, reduction)
    if name in _ELEMENTWISE:
        return _elementwise(node, name, masks, reduction)
    if name in CTC_NODES:
        source, _ = _source(node, 0)
        last = _activation(source)
        return temporal_classification(node, reduction, source, last, _conflict(CTC, last))
    if name == "Mul" and len(node.next_functions) == 2:
        return _soft_classification(node, masks, reduction)
    if name in ("Abs", "Pow"):
        return _difference(node, name, masks, reduction)
    if name in ("Add", "Sub"):
        if name == "Add":
            return pairs(node, reduction) or normal(node, masks, reduction)
        return (
            _poisson(node, masks, reduction)
            or divergence_of_probabilities(node, masks, reduction)
            or normal(node, masks, reduction)
        )
    return None


def _classification(node: Any, masks: tuple[Tensor, ...], reduction: str) -> Criterion:
    given = saved(node, "self")
    source, _ = _source(node, 0)
    last = _activation(source)
    common: dict[str, Any] = {
        "reduction": _reduction(node, reduction),
        "target": saved(node, "target"),
        "ignore_index": signed(node._saved_ignore_index),
        "weight": saved(node, "weight"),
        "masks": masks,
        "entry": node,
        "classes": 0 if given is None else given.shape[min(1, given.dim() - 1)],
        "scale": own_factor_of_classes(node),
    }
    if last != "log_softmax":
        wiring = _conflict("NLLLoss", last)
        if last == "log" and _activation(_source(source, 0)[0]) == "softmax":
            wiring = ("log_of_softmax_before_nll_loss",)
        return Criterion("NLLLoss", **common, prediction=given, last_activation=last, wiring=wiring)
    extra = []
    if given is not None and normalises_other_dimension(node, source, given):
        extra.append("log_softmax_over_wrong_dimension")
    return _on_log_softmax("CrossEntropyLoss", source, common, extra)


def _on_log_softmax(
    kind: str, log_softmax: Any, common: dict[str, Any], extra: list[str]
) -> Criterion:
    """Return a criterion whose prediction is the input of `log_softmax`."""
    source, _ = _source(log_softmax, 0)
    last = _activation(source)
    # log_softmax saves its result, not its input; many activations before it save theirs.
    prediction = saved(source, "result") if last else None
    if common["classes"] == 1:
        extra.append("softmax_over_one_class")
    if mixes_classes(log_softmax, common["classes"]):
        extra.append("classes_mixed_by_a_view")
    if kind == "CrossEntropyLoss" and are_cosines(source):
        extra.append(COSINES)
    return Criterion(
        kind,
        **common,
        prediction=prediction,
        last_activation=last,
        activation_number=_number(source, last),
        logits=source if prediction is None else None,
        source=source,
        wiring=(*_conflict(kind, last), *extra),
    )


def _soft_classification(node: Any, masks: tuple[Tensor, ...], reduction: str) -> Criterion | None:
    """Return a cross entropy or KL divergence: target probabilities times log_softmax."""
    for index, name in ((0, "other"), (1, "self")):
        source, _ = _source(node, index)
        target = saved(node, name)
        if target is None or operation(source) != "LogSoftmax" or node.next_functions[1 - index][0]:
            continue
        result = saved(source, "result")
        if result is None or result.shape != target.shape:
            continue
        common: dict[str, Any] = {
            "reduction": reduction,
            "target": target,
            "masks": masks,
            "classes": target.shape[signed(source._saved_dim)],
            # The sum over the classes of a product that is negative.
            "scale": -1 / target.shape[signed(source._saved_dim)],
        }
        # torch multiplies input · target in cross_entropy, and target · input in kl_div.
        kind = "KLDivLoss" if index else "CrossEntropyLoss"
        return _on_log_softmax(kind, source, common, [])
    return None


def _elementwise(node: Any, name: str, masks: tuple[Tensor, ...], reduction: str) -> Criterion:
    kind = _ELEMENTWISE[name]
    prediction, target = saved(node, "self"), saved(node, "target")
    weight = saved(node, "weight")
    source, _ = _source(node, 0)
    last = _activation(source)
    multi_class = kind == "MultiMarginLoss" and prediction is not None
    wiring = list(_conflict(kind, last))
    if operation(node.next_functions[0][0]) == "Expand" or is_expanded(target):
        wiring.append("prediction_and_target_broadcast")
    if last == "softmax" and _softmax_size(source) == 1:
        wiring.append("softmax_over_one_class")
    positive_weight = saved(node, "pos_weight")
    if positive_weight is not None and positive_weight.is_cpu and (positive_weight == 0).any():
        wiring.append("positive_weight_of_zero")
    return Criterion(
        kind,
        _reduction(node, reduction),
        prediction,
        target,
        weight=weight if multi_class else None,
        masks=masks if weight is None or multi_class else (*masks, weight),
        scale=own_factor(node, 0 if prediction is None else prediction.numel()),
        classes=prediction.shape[-1] if multi_class and prediction is not None else 0,
        last_activation=last,
        activation_number=_number(source, last),
        source=source if _only_first_is_trained(node) else None,
        positive_weight=_smallest(positive_weight),
        threshold=float(getattr(node, "_saved_beta", getattr(node, "_saved_delta", 1.0))),
        wiring=tuple(wiring),
    )


def _difference(
    node: Any, name: str, masks: tuple[Tensor, ...], reduction: str
) -> Criterion | None:
    """Return |prediction − target| or its square, written with tensor operations."""
    inner = node.next_functions[0][0]
    if operation(inner) != "Sub" or (name == "Pow" and node._saved_exponent != 2):
        return None
    sides = [n for n, _ in inner.next_functions]
    if len(sides) != 2 or (sides[0] is None) == (sides[1] is None):
        return None  # a difference of two trained values is no supervision
    index = 0 if sides[0] is not None else 1
    source, _ = _source(inner, index)
    return Criterion(
        "MSELoss" if name == "Pow" else "L1Loss",
        reduction,
        masks=masks,
        last_activation=_activation(source),
        source=source,
        wiring=shape_mistakes(inner, index),
    )


def _poisson(node: Any, masks: tuple[Tensor, ...], reduction: str) -> Criterion | None:
    """Return exp(logarithm) − target · logarithm; the prediction is the rate, exp(logarithm)."""
    rate, product = (n for n, _ in node.next_functions)
    if operation(rate) != "Exp" or operation(product) != "Mul":
        return None
    sides = [n for n, _ in product.next_functions]
    index = 0 if sides[0] is not None else 1
    source, _ = _source(rate, 0)
    if sides[1 - index] is not None or _source(product, index)[0] is not source:
        return None
    return Criterion(
        "PoissonNLLLoss",
        reduction,
        prediction=saved(rate, "result"),
        target=saved(product, "self" if index else "other"),
        masks=masks,
        last_activation=_activation(source),
    )


def _source(node: Any, index: int) -> tuple[Any, bool]:
    """Return the node that computed an input's values, and whether views lie between."""
    at, viewed = node.next_functions[index][0], False
    for _ in range(16):
        if at is None or operation(at) not in VIEWS:
            break
        at, viewed = at.next_functions[0][0], True
    return at, viewed


def _only_first_is_trained(node: Any) -> bool:
    return all(before is None for before, _ in node.next_functions[1:])


def _activation(node: Any) -> str:
    name = operation(node)
    clamped = name in ("Clamp", "ClampMin") and getattr(node, "_saved_min", None) == 0
    return "relu" if clamped else _ACTIVATIONS.get(name, "")


def _number(node: Any, activation: str) -> int:
    return int(node._sequence_nr()) if activation else -1


def _smallest(weight: Tensor | None) -> float:
    if weight is None or weight.device.type != "cpu" or weight.numel() == 0:
        return 0.0
    smallest = float(weight.amin())
    return smallest if math.isfinite(smallest) else 0.0


def _softmax_size(node: Any) -> int:
    """Return the number of entries over which a softmax normalises; 0 if unknown."""
    shape = shape_of(node, 0)
    return shape[signed(node._saved_dim)] if shape else 0


def _conflict(kind: str, last: str) -> tuple[str, ...]:
    if last not in _CONFLICTS.get(kind, ()):
        return ()
    names = {
        "CrossEntropyLoss": "cross_entropy",
        "NLLLoss": "nll_loss",
        "BCEWithLogitsLoss": "bce_with_logits",
        "BCELoss": "bce",
        CTC: "ctc_loss",
    }
    return (f"{last}_before_{names[kind]}",)


def _with_zero_weight(criterion: Criterion) -> Criterion:
    return replace(criterion, wiring=(*criterion.wiring, f"{criterion.kind}_weighted_0"))


def _divides_ctc(node: Any) -> bool:
    """Whether a node divides losses of sequences: a mean divides them by the target's lengths."""
    below = node.next_functions[0][0]
    if operation(below) == "Where":  # infinite losses are replaced by 0
        below = below.next_functions[1][0]
    return operation(below) in CTC_NODES


def _is_large(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.numel() > 1


def _reduction(node: Any, outer: str) -> str:
    if node._saved_reduction == 2 and outer == "mean":
        return "mean"  # a sum that is divided, presumably by the number of elements
    return {1: "mean", 2: "sum"}.get(node._saved_reduction, outer or "none")
