"""What each loss function of a loss amounts to, and what the best constant prediction would give.

Comes in: the loss functions of one loss (loss_graph.py). Goes out: 0-dim scalars on the device of
          the tensors, without a wait.
Promise:  a value that the graph does not give is absent. Large tensors are sampled.
Start at `constants`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from trainvitals.capture.graph_nodes import saved
from trainvitals.capture.loss_criterion import Criterion, Found, Normal
from trainvitals.capture.supervised_values import ENTRIES_MAX, fits, sample, unmasked
from trainvitals.wire import Scalar

TERMS_MAX: Final = 4
"""Maximum number of terms that are measured one by one."""
ROWS_MIN: Final = 16
"""Minimum number of samples for a constant of each column of the targets."""
FROM_MOMENTS: Final = ("CrossEntropyLoss", "NLLLoss", "MSELoss")
"""Losses whose constant the diagnosis computes from the moments and classes of the targets."""


LIKELIHOODS: Final = ("GaussianNLLLoss", "PoissonNLLLoss")
"""Losses that may be below zero."""
LOSS_MAX: Final = 1e5
"""Maximum mean of a likelihood: float32 rounds a larger one by more than 0.01."""


class _Kind(NamedTuple):
    """How a loss compares numbers; `threshold` is the criterion's."""

    error: Callable[[Tensor, Tensor, float], Tensor]
    """The error of each entry: predictions, targets, threshold."""
    best: Callable[[Tensor], Tensor]
    """The prediction with the smallest loss, or near it, for each column of targets (rows,
    columns): the median for an absolute error, and for those that are absolute for large errors."""


class _Part(NamedTuple):
    """What a term adds to the loss; 0-dim tensors."""

    value: Tensor
    constant: Tensor
    """What it would add for the best constant prediction."""
    least: Tensor
    """What it would add if each prediction were its target; −∞ without a lower bound."""


def constants(found: Found, losses: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the loss of the best constant prediction in this batch, and the parts of each term.

    In the unit of the loss, the sum of `losses`. The parts only for two to four terms; the sum only
    if the loss consists of these terms and all of them are known.
    """
    terms = found.criteria
    if found.is_stacked:
        return {}
    if not 0 < len(terms) <= TERMS_MAX or (len(terms) == 1 and terms[0].kind in FROM_MOMENTS):
        return {}
    parts = [_parts(term) for term in terms]
    known = {i: part for i, part in enumerate(parts) if part is not None}
    scalars: dict[str, Tensor] = {}
    if found.is_whole and len(known) == len(terms):
        value, constant, least = (torch.stack(s).sum() for s in zip(*known.values(), strict=True))
        if any(term.kind in LIKELIHOODS for term in terms):
            added = _added(losses, value, sum(abs(term.scale) for term in terms))
            constant = constant + added
            if all(term.normal is None for term in terms):
                scalars[Scalar.LOSS_OF_TARGETS] = least + added
        scalars[Scalar.LOSS_OF_CONSTANT] = constant
    if len(terms) > 1:
        for i, part in known.items():
            scalars[f"{Scalar.PART_OF_LOSS}/{i}"] = part.value
            scalars[f"{Scalar.PART_OF_CONSTANT}/{i}"] = part.constant
    return scalars


def supervised_shares(terms: Sequence[Criterion]) -> dict[str, Tensor]:
    """Return the share of the elements that count in each masked term of two to four."""
    if not 1 < len(terms) <= TERMS_MAX:
        return {}
    scalars: dict[str, Tensor] = {}
    for i, term in enumerate(terms):
        masks = [sample(mask.detach()) for mask in term.masks]
        shares = [unmasked(mask).float().mean() for mask in masks if mask.numel()]
        if len(shares) < len(masks) or _is_empty(term):
            shares = [torch.zeros(())]
        if shares:
            scalars[f"{Scalar.PART_SUPERVISED_SHARE}/{i}"] = torch.stack(shares).amin()
    return scalars


def _is_empty(term: Criterion) -> bool:
    given = term.prediction if term.entry is None else saved(term.entry, "target")
    return given is not None and given.numel() == 0


def _added(losses: Sequence[Tensor], value: Tensor, scale: float) -> Tensor:
    """Return what the losses contain besides the value of their terms: ½·ln 2π, for example.

    NaN if it is lost in the rounding of a large loss, or if the losses are not single numbers.
    """
    if any(loss.numel() != 1 for loss in losses):
        return value + math.nan
    loss = torch.stack([loss.detach().float().reshape(()) for loss in losses]).sum()
    return torch.where(loss.abs() < LOSS_MAX * scale, loss - value, math.nan)


def _parts(term: Criterion) -> _Part | None:
    """Return what a term adds to the loss; None if unknown."""
    if not math.isfinite(term.scale) or term.scale == 0 or term.weight is not None:
        return None
    if term.normal is not None:
        parts = _of_normal(term.normal, term.target)
    else:
        parts = _of_numbers(term) if term.entry is None else _of_classes(term)
    return None if parts is None else _Part(*(part * term.scale for part in parts))


def _of_classes(term: Criterion) -> _Part | None:
    """Return the mean negative log-probability of the targets, and the entropy of the classes."""
    given, target = saved(term.entry, "self"), saved(term.entry, "target")
    if given is None or target is None or given.dim() != target.dim() + 1 or given.dim() < 2:
        return None
    every = -(-given.numel() // ENTRIES_MAX)
    given, target = given.detach()[::every].float(), target.detach()[::every]
    classes = given.shape[1]
    counted = target.ne(-100 if term.ignore_index is None else term.ignore_index)
    index = target.clamp(0, classes - 1)
    losses: Tensor = -given.gather(1, index.unsqueeze(1)).squeeze(1)
    n = counted.sum(dtype=torch.float32)
    counts = torch.zeros(classes, device=given.device)
    counts.scatter_add_(0, index.reshape(-1), counted.reshape(-1).float())
    shares = counts / n
    # The entropy of few samples is too small by about this: Miller, "Note on the bias of
    # information estimates", 1955.
    missing = ((counts > 0).sum() - 1) / (2 * n)
    entropy = missing - torch.xlogy(shares, shares).sum()
    value = losses.masked_fill(~counted, 0.0).sum() / n
    return _Part(value, entropy.clamp(max=math.log(max(classes, 2))), 0 * value)


def _of_numbers(term: Criterion) -> _Part | None:
    """Return the mean error, and that of the best constant for each column of the targets.

    One constant for all columns if the targets are no table or a small one.
    """
    kind, x, y = _KINDS.get(term.kind), term.prediction, term.target
    if kind is None or x is None or y is None or x.shape != y.shape or y.numel() < 2:
        return None
    if term.positive_weight or not y.is_floating_point():
        return None
    x, y = sample(x.detach()).float(), sample(y.detach()).float()
    rows = _rows(y)
    best = kind.best(rows).expand_as(rows)
    # The constant is fitted to these rows: like a variance, its error is too small.
    unbiased = len(rows) / (len(rows) - 1)
    value = kind.error(x, y, term.threshold).mean()
    constant = kind.error(best, rows, term.threshold).mean()
    least = kind.error(y, y, term.threshold).mean() if term.kind in LIKELIHOODS else 0 * value
    return _Part(value, least + (constant - least) * unbiased, least)


def _of_normal(normal: Normal, y: Tensor | None) -> _Part | None:
    """Return the mean of ½·(ln v + e²/v), and that of a constant mean and variance.

    The constant's are those of each column, as for other losses, or one variance for all columns if
    the program predicts one.
    """
    if y is None or y.shape != normal.error.shape or y.numel() < 2 or not y.is_floating_point():
        return None
    if not fits(normal.spread.shape, y.shape):
        return None
    shared = y.dim() > 1 and normal.spread.shape[-1:] != y.shape[-1:]
    each = (y, normal.error, normal.spread.expand_as(y))
    y, error, spread = (sample(x.detach()).float() for x in each)
    variance = normal.factor * spread**normal.power
    rows = _rows(y)
    spreads = rows.var(0)
    if shared:
        spreads = spreads.mean()
    # The logarithm of a variance of few samples is too small by about this.
    missing = 1 / (len(rows) - 1)
    value = 0.5 * (variance.log() + error.square() / variance).mean()
    return _Part(
        value, 0.5 * (spreads.log().mean() + 1 + missing), torch.full_like(value, -math.inf)
    )


def _rows(y: Tensor) -> Tensor:
    return y if y.dim() == 2 and len(y) >= ROWS_MIN else y.reshape(-1, 1)


def _squared(x: Tensor, y: Tensor, _: float) -> Tensor:
    return (x - y).square()


def _absolute(x: Tensor, y: Tensor, _: float) -> Tensor:
    return (x - y).abs()


def _smooth(x: Tensor, y: Tensor, threshold: float) -> Tensor:
    return nn.functional.smooth_l1_loss(x, y, reduction="none", beta=threshold)


def _huber(x: Tensor, y: Tensor, threshold: float) -> Tensor:
    return nn.functional.huber_loss(x, y, reduction="none", delta=threshold)


def _binary(x: Tensor, y: Tensor, _: float) -> Tensor:
    # As in torch.nn.BCELoss, which limits the logarithms.
    positive, negative = x.log().clamp_min(-100), torch.log1p(-x).clamp_min(-100)
    return -(y * positive + (1 - y) * negative)


def _of_logits(x: Tensor, y: Tensor, _: float) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")


def _poisson(x: Tensor, y: Tensor, _: float) -> Tensor:
    return x - y * x.clamp_min(1e-30).log()


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(0, keepdim=True)


def _median(rows: Tensor) -> Tensor:
    return rows.median(0, keepdim=True).values


_KINDS: Final = {
    "MSELoss": _Kind(_squared, _mean),
    "L1Loss": _Kind(_absolute, _median),
    "SmoothL1Loss": _Kind(_smooth, _median),
    "HuberLoss": _Kind(_huber, _median),
    "BCELoss": _Kind(_binary, _mean),
    "BCEWithLogitsLoss": _Kind(_of_logits, lambda rows: torch.logit(_mean(rows), eps=1e-6)),
    "PoissonNLLLoss": _Kind(_poisson, _mean),
}
