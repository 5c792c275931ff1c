"""Which task targets and predictions describe: regression, binary, classes, labels, ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

IGNORED: Final = -100
"""`ignore_index` of PyTorch's cross entropy: such targets count nowhere."""

Kind = Literal["regression", "binary", "multi_class", "soft_classes", "multi_label", "ordinal"]

PREDICTIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "predictions": lambda z: z,
    "predictions.squeeze(-1)": lambda z: z.squeeze(-1),
    "predictions.flatten(0, -2)": lambda z: z.flatten(0, -2),
}
"""Code → the same as a function: how a loss takes the predictions."""
TARGETS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "targets": lambda y: y,
    "targets.float()": lambda y: y.float(),
    "targets.long()": lambda y: y.long(),
    "targets.squeeze(-1)": lambda y: y.squeeze(-1),
    "targets.squeeze(-1).float()": lambda y: y.squeeze(-1).float(),
    "targets.argmax(-1)": lambda y: y.argmax(-1),
    "targets.flatten()": lambda y: y.flatten(),
    "targets.flatten().long()": lambda y: y.flatten().long(),
}


@dataclass(frozen=True)
class Task:
    """What the targets are, and how predictions and targets enter a loss."""

    kind: Kind
    values: Tensor
    """Regression, labels: float64 (samples, columns). Classes: int64 indices (n,), without ignored
    ones. Soft classes: float64 (samples, classes)."""
    classes: int = 0
    predictions: Tensor | None = None
    """As the loss takes them; None if they are not known."""
    prediction_code: str = "predictions"
    target_code: str = "targets"


def task_of(targets: Tensor, predictions: Tensor | None, *, ordered: bool) -> Task:
    """Return the task. Raises ValueError, with what was expected, if there is none."""
    _check("targets", targets)
    if predictions is not None:
        _check("predictions", predictions)
        if not predictions.is_floating_point():
            raise ValueError(f"predictions are {predictions.dtype}; expected floating point.")
    if ordered:
        return _ordinal(targets, predictions)
    if predictions is not None and (dim := _class_dim(targets, predictions)) is not None:
        return _classes(targets, predictions, dim)
    if predictions is not None:
        return _elementwise(targets, predictions)
    if targets.is_floating_point() or bool(_is_binary(targets)):
        return _elementwise(targets, None)
    return _classes(targets, None, 1)


def _check(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, not a {type(tensor).__name__}.")
    if tensor.numel() == 0 or tensor.dim() == 0:
        raise ValueError(f"{name} have shape {tuple(tensor.shape)}; expected one row per sample.")
    if tensor.is_complex():
        raise ValueError(f"{name} are complex; expected real numbers.")
    if not bool(torch.isfinite(tensor).all()):
        count = int((~torch.isfinite(tensor)).sum())
        raise ValueError(f"{name}: {count} entries are NaN or infinite; drop these rows.")


def _is_binary(values: Tensor) -> Tensor:
    return ((values == 0) | (values == 1)).all()


def _is_whole(values: Tensor) -> bool:
    return not values.is_floating_point() or bool((values == values.round()).all())


def _class_dim(targets: Tensor, predictions: Tensor) -> int | None:
    """Return the dimension of the classes in predictions; None if targets are no indices."""
    if predictions.dim() != targets.dim() + 1 or not _is_whole(targets):
        return None
    shape = predictions.shape
    if shape[0] == targets.shape[0] and shape[2:] == targets.shape[1:] and shape[1] > 1:
        return 1
    return -1 if shape[:-1] == targets.shape and shape[-1] > 1 else None


def _indices(targets: Tensor, classes: int | None) -> Tensor:
    indices = targets.flatten().long()
    indices = indices[indices != IGNORED]
    if indices.numel() == 0:
        raise ValueError(f"All targets are {IGNORED} (ignored): nothing is supervised.")
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or (classes is not None and high >= classes):
        allowed = f"0 to {classes - 1}" if classes else "0 and above"
        raise ValueError(
            f"Targets are whole numbers from {low} to {high}; expected class indices, {allowed} "
            f"(or {IGNORED} for positions to ignore). If they are quantities, pass targets.float()."
        )
    return indices


def _classes(targets: Tensor, predictions: Tensor | None, dim: int) -> Task:
    classes = predictions.shape[dim] if predictions is not None else None
    indices = _indices(targets, classes)
    code = "targets" if targets.dtype == torch.int64 else "targets.long()"
    prediction_code = "predictions"
    if dim == -1:
        prediction_code = "predictions.flatten(0, -2)"
        code = "targets.flatten()" if targets.dtype == torch.int64 else "targets.flatten().long()"
    elif predictions is not None:
        predictions = predictions.movedim(1, -1)
    count = classes if classes is not None else int(indices.max()) + 1
    _differ(indices)
    logits = predictions.reshape(-1, count) if predictions is not None else None
    return Task("multi_class", indices, count, logits, prediction_code, code)


def _ordinal(targets: Tensor, predictions: Tensor | None) -> Task:
    if not _is_whole(targets) or targets.dim() != 1:
        raise ValueError(
            f"Ordered classes must be whole numbers of shape (n,), from 0; targets have shape "
            f"{tuple(targets.shape)} and type {targets.dtype}."
        )
    indices = _indices(targets, None)
    _differ(indices)
    classes = int(indices.max()) + 1
    if predictions is not None:
        if predictions.dim() != 2 or len(predictions) != len(targets):
            raise ValueError(
                f"predictions have shape {tuple(predictions.shape)}; expected one logit per "
                f"threshold between classes, ({len(targets)}, {classes - 1})."
            )
        classes = predictions.shape[1] + 1
        _indices(targets, classes)
    return Task("ordinal", indices, classes, predictions)


def _differ(values: Tensor) -> None:
    if bool((values == values[0]).all()):
        raise ValueError(
            f"All targets are equal ({values[0].tolist()}): there is nothing to learn. "
            "Expected at least two different targets."
        )


def _elementwise(targets: Tensor, predictions: Tensor | None) -> Task:
    prediction_code, target_code = "predictions", "targets"
    if predictions is not None and predictions.shape != targets.shape:
        if predictions.shape == (*targets.shape, 1):
            prediction_code, predictions = "predictions.squeeze(-1)", predictions.squeeze(-1)
        elif targets.shape == (*predictions.shape, 1):
            target_code = "targets.squeeze(-1)"
            targets = targets.squeeze(-1)
        else:
            raise ValueError(
                f"targets of shape {tuple(targets.shape)} and type {targets.dtype} fit no loss for "
                f"predictions of shape {tuple(predictions.shape)}; expected targets of the same "
                "shape (numbers, labels) or without the dimension of the classes (class indices)."
            )
    values = targets.detach().double().reshape(len(targets), -1)
    _differ(values.flatten())
    if not targets.is_floating_point():
        target_code = "targets.float()" if target_code == "targets" else f"{target_code}.float()"
    columns = values.shape[1]
    if columns > 1 and targets.dim() == 2 and _are_distributions(values):
        return _distributions(values, predictions)
    if bool(_is_binary(values)):
        kind: Kind = "multi_label" if columns > 1 else "binary"
        return Task(kind, values, columns, predictions, prediction_code, target_code)
    return Task("regression", values, 0, predictions, prediction_code, target_code)


def _are_distributions(rows: Tensor) -> bool:
    return bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-4).all())


def _distributions(values: Tensor, predictions: Tensor | None) -> Task:
    """Return the task of rows that sum to 1: one class each (one-hot), or shares of classes."""
    classes = values.shape[1]
    if bool(_is_binary(values)):
        indices = values.argmax(1)
        _differ(indices)
        return Task(
            "multi_class", indices, classes, predictions, "predictions", "targets.argmax(-1)"
        )
    return Task("soft_classes", values, classes, predictions)
