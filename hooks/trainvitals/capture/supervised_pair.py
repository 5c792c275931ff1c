"""The prediction and the target of a loss, from its graph and from what its module was given.

Comes in: a `Criterion` and what is known about the call. Goes out: a `Criterion` whose tensors can
          be measured.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trainvitals.capture.loss import Seen
from trainvitals.capture.loss_criterion import Criterion, Normal
from trainvitals.capture.loss_views import is_expanded
from trainvitals.capture.supervised_values import dim_beside, sample


def completed(main: Criterion, seen: Seen, *, is_alone: bool) -> Criterion:
    """Return the criterion with the tensors that the caller knows in place of the graph's.

    If it is not alone in the loss, the caller's can belong to the other terms too: then they only
    take the place of tensors that the graph does not give.
    """
    prediction, target = readable(main.prediction), readable(main.target)
    classes, ignore_index, wiring = main.classes, main.ignore_index, main.wiring
    if is_alone and (seen.explicit or main.kind in ("", seen.module)):
        given = readable(seen.target)
        if _counts_ignored(main, given):
            wiring = (*wiring, "ignored_targets_count")
        if _repeats(main.target, given):
            wiring = (*wiring, "one_target_repeated")
        if _compares_all_pairs(main, seen.prediction, given):
            wiring = (*wiring, "all_pairs_compared")
        if not _is_derived(main, seen.prediction, given):
            if seen.prediction is not None:
                prediction = readable(seen.prediction)
            if seen.target is not None:
                target = given
    elif main.target is None or _is_for(main.target, seen.prediction, main.classes):
        # A loss can compare parts of what it is given.
        prediction = readable(seen.prediction) if prediction is None else prediction
        target = readable(seen.target) if target is None else target
    if main.normal is not None:
        prediction, target = _of_normal(main.normal, target)
    if ignore_index is None and seen.ignore_index is not None:
        ignore_index = seen.ignore_index
    if not main.kind and prediction is not None and target is not None:
        if not target.is_floating_point() and prediction.dim() == target.dim() + 1:
            classes = prediction.shape[dim_beside(prediction, target)]
            ignore_index = -100 if ignore_index is None else ignore_index
        elif target.is_floating_point() and prediction.shape != target.shape:
            wiring = (*wiring, "prediction_and_target_broadcast")
    if main.kind == "NLLLoss" and not wiring and not _is_log(prediction):
        wiring = ("no_log_softmax_before_nll_loss",)
    return replace(
        main,
        prediction=prediction,
        target=target,
        classes=classes,
        ignore_index=ignore_index,
        wiring=wiring,
    )


def ignored_class(main: Criterion, x: Tensor | None) -> str:
    """Return the class whose samples a cross entropy leaves out by its ignore_index; "" without.

    Only for one class number for each sample of the model's input `x`: among flattened tokens or
    pixels, a class can stand for padding. So can it where `x` is token numbers and the classes may
    be tokens too: windows that end in padding.
    """
    index, target = main.ignore_index, main.target
    if index is None or target is None or x is None or not 0 <= index < main.classes:
        return ""
    if target.is_floating_point() or target.dim() != 1 or main.masks:
        return ""
    if x.dim() < 2 or len(x) != len(target):
        return ""
    if not x.is_floating_point() and (not x.is_cpu or int(x.amax()) < main.classes):
        return ""
    return str(index)


def _is_derived(main: Criterion, prediction: object, target: Tensor | None) -> bool:
    """Whether a loss of numbers computes its targets from the given ones.

    It has a target for each given prediction, and the given ones are not as many: times of events
    from which the loss makes a target for each interval.
    """
    if main.prediction is None or main.target is None or main.classes or main.wiring:
        return False
    if target is None or not isinstance(prediction, Tensor) or not target.is_floating_point():
        return False
    own = main.target.numel() == main.prediction.numel() == prediction.numel()
    return own and target.numel() != prediction.numel()


def _compares_all_pairs(main: Criterion, prediction: object, target: Tensor | None) -> bool:
    """Whether the loss expands a prediction or its target although both have as many entries."""
    if "prediction_and_target_broadcast" not in main.wiring or target is None:
        return False
    return isinstance(prediction, Tensor) and prediction.numel() == target.numel() > 1


def _repeats(seen: Tensor | None, target: Tensor | None) -> bool:
    """Whether the loss repeats some of the given targets where the others are."""
    if seen is None or target is None or seen.shape != target.shape:
        return False
    return is_expanded(seen) and not is_expanded(target)


def _counts_ignored(main: Criterion, target: Tensor | None) -> bool:
    """Whether negative class numbers were given and a cross entropy ignores no target.

    A loss that masks its terms afterwards is left out: it can give any class to the masked ones.
    """
    seen, ignored = main.target, main.ignore_index
    if (
        ignored is None
        or main.entry is None
        or main.entry._saved_reduction == 0
        or main.weight is not None
    ):
        return False
    if seen is None or target is None or target.is_floating_point():
        return False
    if not (seen.is_cpu and target.is_cpu) or seen.numel() != target.numel():
        return False
    is_marked = bool((sample(target) < 0).any())
    return is_marked and not bool(sample(seen).eq(ignored).any())


def _of_normal(normal: Normal, target: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the predicted means and the targets: the graph keeps only their difference."""
    if target is None or target.numel() != normal.error.numel():
        return None, None
    target = target.detach().reshape(normal.error.shape)
    return normal.mean(target), target


def _is_for(target: Tensor, prediction: object, classes: int) -> bool:
    """Whether a prediction has an entry for each target, or one for each class of each target."""
    each = 1 if target.is_floating_point() else max(1, classes)
    return isinstance(prediction, Tensor) and prediction.numel() == each * target.numel()


def readable(tensor: object) -> Tensor | None:
    # The kernel does not measure integer types.
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or tensor.is_meta:
        return None
    if tensor.is_nested or tensor.is_quantized or hasattr(tensor, "full_tensor"):
        return None
    return tensor if tensor.numel() and not tensor.is_complex() else None


def _is_log(x: Tensor | None) -> bool:
    """Whether no entry is clearly positive or NaN, as of logarithms of probabilities.

    True where that is not known: CPU only.
    """
    return x is None or x.device.type != "cpu" or bool((sample(x) <= 1e-3).all())
