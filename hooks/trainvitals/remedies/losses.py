"""Recommend a loss for targets: the module, a line of PyTorch, the reason and the numbers.

Sources: Huber 1964 (δ = 1.345 σ keeps 95 % efficiency on normal residuals); Rousseeuw & Croux 1993
(σ from the median absolute deviation); King & Zeng 2001 (class weights); Szegedy et al. 2016,
arXiv:1512.00567 (label smoothing); Gneiting & Raftery 2007 (proper scores); Frank & Hall 2001
(ordered classes as thresholds).
"""

from __future__ import annotations

from typing import Final, get_args

import torch
from torch import Tensor, nn

from trainvitals.api.schema import Evidence
from trainvitals.remedies.advice import (
    SMOOTHING,
    Alternative,
    Goal,
    LossAdvice,
    OrdinalLoss,
    SmoothedBinaryLoss,
    advice,
    call,
    filled,
)
from trainvitals.remedies.regression import regression
from trainvitals.remedies.tasks import Task, task_of

IMBALANCE_MAX: Final = 10.0
"""The limit of TV805: majority against minority."""
WEIGHT_MAX: Final = 100.0
"""Larger weights let single samples decide a step."""


def recommend_loss(
    targets: Tensor,
    predictions: Tensor | None = None,
    goal: Goal = "accuracy",
    *,
    ordered: bool = False,
) -> LossAdvice:
    """Return a loss for `targets`, which are a batch or, better, the whole training set.

    Whole numbers are class indices, floats are quantities; zeros and ones are binary, in several
    columns labels; rows with a single 1 are classes. `predictions`, in the form the loss would get
    them, decide what the targets alone do not determine; the tails are then those of the residuals.
    `ordered`: the classes have an order (ratings), and the model predicts a logit per threshold.

    `goal`: "accuracy" weights rare classes and bounds heavy tails where the data need it;
    "calibration" takes proper scores without weights; "robustness" expects wrong labels, outliers.

    Raises ValueError if the targets fit no loss, with what was expected.
    """
    if goal not in get_args(Goal):
        raise ValueError(f"goal is {goal!r}; it is one of {', '.join(get_args(Goal))}.")
    task = task_of(targets, predictions, ordered=ordered)
    if task.kind == "regression":
        return regression(task, goal)
    if task.kind == "multi_class":
        return _classes(task, goal)
    if task.kind == "soft_classes":
        return _soft_classes(task)
    return _ordinal(task) if task.kind == "ordinal" else _labels(task, goal)


def _labels(task: Task, goal: Goal) -> LossAdvice:
    """Return the loss of one or several columns of zeros and ones."""
    rows = len(task.values)
    positive = task.values.sum(0)
    ratio = (rows - positive) / positive.clamp(min=1)
    worst = float(torch.maximum(ratio, positive / (rows - positive).clamp(min=1)).max())
    is_binary = task.kind == "binary"
    evidence = [
        Evidence(
            quantity="share of ones",
            seen=float(task.values.mean()),
            healthy=(1 / (1 + IMBALANCE_MAX), IMBALANCE_MAX / (1 + IMBALANCE_MAX)),
            unit="share",
        ),
        _imbalance(worst),
    ]
    weights = _weights(task, ratio.clamp(1 / WEIGHT_MAX, WEIGHT_MAX))
    plain = call("BCEWithLogitsLoss()")
    weighted = call(f"BCEWithLogitsLoss(pos_weight={_code(weights)})")
    smooth = (
        "loss = nn.functional.binary_cross_entropy_with_logits("
        f"PREDICTIONS, TARGETS * {1 - SMOOTHING} + {SMOOTHING / 2})"
    )
    options: dict[str, tuple[nn.Module, str, str]] = {
        "plain": (nn.BCEWithLogitsLoss(), plain, "probabilities have to be calibrated"),
        "weighted": (
            nn.BCEWithLogitsLoss(pos_weight=weights),
            weighted,
            "ones have to be found although they are rare: weights shift the probabilities",
        ),
        "smooth": (SmoothedBinaryLoss(), smooth, "some labels are wrong"),
    }
    what = "Two classes" if is_binary else "Several labels per sample"
    if goal == "robustness":
        chosen, reason = "smooth", f"{what}; smoothed targets bound the effect of a wrong label."
    elif goal == "accuracy" and worst > IMBALANCE_MAX:
        chosen = "weighted"
        reason = f"{what}, {worst:.3g} to 1: ones are weighted by zeros per one."
    else:
        chosen, reason = "plain", f"{what}: the cross entropy on logits is a proper score."
    loss, code, _ = options.pop(chosen)
    alternatives = [Alternative(text, when) for _, text, when in options.values()]
    return advice(task, loss, code, reason, evidence, filled(task, alternatives))


def _classes(task: Task, goal: Goal) -> LossAdvice:
    counts = torch.bincount(task.values, minlength=task.classes).double()
    seen = counts[counts > 0]
    worst = float(seen.max() / seen.min())
    evidence = [
        Evidence(quantity="classes", seen=float(task.classes)),
        Evidence(
            quantity="classes without a target",
            seen=float((counts == 0).sum()),
            healthy=(0.0, 0.0),
            text="" if bool((counts > 0).all()) else "in these targets; their weight is that of 1",
        ),
        _imbalance(worst),
    ]
    raw = counts.sum() / (len(seen) * counts.clamp(min=1))
    raw = raw.clamp(max=float(raw.min()) * WEIGHT_MAX)
    weights = _weights(task, raw)
    options: dict[str, tuple[nn.Module, str, str]] = {
        "plain": (
            nn.CrossEntropyLoss(),
            call("CrossEntropyLoss()"),
            "probabilities have to be calibrated",
        ),
        "weighted": (
            nn.CrossEntropyLoss(weight=weights),
            call(f"CrossEntropyLoss(weight={_code(weights)})"),
            "rare classes count as much as frequent ones: weights shift the probabilities",
        ),
        "smooth": (
            nn.CrossEntropyLoss(label_smoothing=SMOOTHING),
            call(f"CrossEntropyLoss(label_smoothing={SMOOTHING})"),
            "some labels are wrong, or the model is too confident",
        ),
    }
    if goal == "robustness":
        chosen, reason = "smooth", "Label smoothing bounds the confidence in a wrong label."
    elif goal == "accuracy" and worst > IMBALANCE_MAX:
        chosen = "weighted"
        reason = f"The largest class is {worst:.3g} times the smallest: rare classes are weighted."
    else:
        chosen, reason = "plain", "The cross entropy on logits is a proper score for classes."
    loss, code, _ = options.pop(chosen)
    alternatives = [Alternative(text, when) for _, text, when in options.values()]
    return advice(task, loss, code, reason, evidence, filled(task, alternatives))


def _soft_classes(task: Task) -> LossAdvice:
    entropy = -torch.special.xlogy(task.values, task.values).sum(1).mean()
    evidence = [
        Evidence(quantity="classes", seen=float(task.classes)),
        Evidence(
            quantity="mean entropy of a target row",
            seen=float(entropy),
            text="the smallest loss that can be reached, in nats",
        ),
    ]
    reason = "Each row is a distribution over classes; the cross entropy takes it as it is."
    alternatives = [
        Alternative(
            "loss = nn.KLDivLoss(reduction='batchmean')(predictions.log_softmax(1), targets)",
            "the loss should be 0 for a perfect model; its gradient is the same",
        )
    ]
    loss = nn.CrossEntropyLoss()
    return advice(task, loss, call("CrossEntropyLoss()"), reason, evidence, alternatives)


def _ordinal(task: Task) -> LossAdvice:
    counts = torch.bincount(task.values, minlength=task.classes).double()
    seen = counts[counts > 0]
    evidence = [
        Evidence(quantity="classes", seen=float(task.classes)),
        _imbalance(float(seen.max() / seen.min())),
    ]
    device = f", device='{task.values.device}'" if task.values.device.type != "cpu" else ""
    code = (
        "loss = nn.functional.binary_cross_entropy_with_logits("
        f"predictions, (targets.unsqueeze(-1) > torch.arange({task.classes - 1}{device})).float())"
    )
    reason = (
        f"{task.classes} ordered classes: one logit for each of {task.classes - 1} thresholds, so "
        "that a distant class costs more than a near one."
    )
    alternatives = [
        Alternative(
            "loss = nn.CrossEntropyLoss()(predictions, targets)",
            f"the order does not matter; the model then has {task.classes} outputs",
        ),
        Alternative(
            "loss = nn.MSELoss()(predictions.squeeze(-1), targets.float())",
            "the distances between classes are equal; the model then has one output",
        ),
    ]
    return advice(task, OrdinalLoss(), code, reason, evidence, alternatives)


def _weights(task: Task, values: Tensor) -> Tensor:
    """Return weights with three digits in the type and on the device of the predictions."""
    like = task.predictions if task.predictions is not None else torch.empty(0)
    rounded = [float(f"{float(value):.3g}") for value in values]
    return torch.tensor(rounded, dtype=like.dtype, device=like.device)


def _code(weights: Tensor) -> str:
    digits = ", ".join(f"{float(value):.3g}" for value in weights)
    dtype = "" if weights.dtype == torch.float32 else f", dtype={weights.dtype}"
    device = "" if weights.device.type == "cpu" else f", device='{weights.device}'"
    return f"torch.tensor([{digits}]{dtype}{device})"


def _imbalance(ratio: float) -> Evidence:
    return Evidence(
        quantity="most frequent against rarest class",
        seen=ratio,
        limit=IMBALANCE_MAX,
        direction="above",
        healthy=(1.0, IMBALANCE_MAX),
        unit="times",
    )
