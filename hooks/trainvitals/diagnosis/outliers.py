"""Outliers among the targets of a regression, in many batches or in a few.

Comes in: a history. Goes out: the share of a batch's variance in one target, and `RareOutliers`.
Promise:  pure; a run without measured targets has none.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.diagnosis.history import History, Steps
from trainvitals.diagnosis.signals import Array
from trainvitals.diagnosis.supervision import (
    BATCHES_KNOWN,
    USUAL_BATCHES,
    only_loss,
    targets_of,
)
from trainvitals.wire import Scalar

Bools = npt.NDArray[np.bool_]

OUTLIER_SHARE = 0.7
"""Share of the variance of a batch's targets in one target, above which it is an outlier. The
largest of 64 normal values has 0.1."""
OUTLIER_DISTANCE = 25.0
"""Distance of the most distant target in standard deviations of the batch with the smallest one."""
OUTLIER_BATCHES = 0.2
"""Share of the batches that have an outlier; 2 % of the targets are in half of batches of 32."""

GAP_DISTANCE: Final = 8.0
"""A batch whose most distant target lies between this and `OUTLIER_DISTANCE` fills the gap: a
heavy tail has many such batches for each outlier, errors in the data have hardly any."""


def outlier_share(history: History) -> float:
    """Return the share of the variance of a batch's targets that its most distant one holds.

    That of the fifth of the measured batches with the largest shares, 0 to 1: a few outliers are
    not in every batch. 0 if it is not known, with fewer than eight batches, or for batches of fewer
    than 24 targets.
    """
    kind = only_loss(history)
    entries = int(np.prod(kind.target_shape)) if kind and kind.target_shape else 0
    low, high, mean, std = targets_of(history)
    if entries < 24 or not len(low) == len(high) == len(mean) == len(std) >= BATCHES_KNOWN:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.maximum(high - mean, mean - low) ** 2 / (entries * std**2)
    share = share[np.isfinite(share)]
    # Rare ones among zeros, or small counts: the most distant target is not far from the others.
    usual = float(std[std > 0].min(initial=np.inf))
    furthest = np.maximum(high - mean, mean - low)
    far, between = _far_and_between(furthest, usual)
    if not far.any() or between.sum() > far.sum():
        return 0.0
    return float(np.quantile(share, 1 - OUTLIER_BATCHES)) if len(share) else 0.0


ENTRIES_RARE: Final = 16
"""Minimum number of targets in a batch: the largest of 16 normal values holds a third of their
variance."""
SPIKE: Final = 10.0
"""Loss of a step with an outlier, divided by the lowest decile of its block."""
BLOCK: Final = 50
"""Steps in a block of the loss: a falling loss is compared with its own neighbours."""
SPIKES_MIN: Final = 3
STEPS_MIN: Final = 150
"""Losses: the first outliers may still be learned."""
UNEXPLAINED_MIN: Final = 0.9
"""Loss of a batch divided by d²/n of its outlier; 1 if the model does not predict it at all."""


class RareOutliers(NamedTuple):
    """Steps whose loss is the squared distance of one target."""

    steps: int
    """Steps with such a loss."""
    of: int
    """Steps with a loss."""
    loss_share: float
    """Share of the sum of the losses in these steps, 0 to 1."""
    distance: float
    """Distance of the nearest measured outlier, in standard deviations of a usual batch."""


def rare_outliers(history: History) -> RareOutliers | None:
    """Return the steps whose loss one outlier of the targets determines; None without evidence.

    Targets are measured in a few batches only, the loss in each step. At least three steps have a
    loss ten times as high as their neighbours, and each of those that is measured has a far target.
    In one or more, a target holds the variance of the batch, is 25 usual standard deviations away,
    and its squared distance is the loss still: the model does not learn to predict it.
    """
    kind, loss = only_loss(history), history.scalar(Scalar.LOSS).finite()
    entries = int(np.prod(kind.target_shape)) if kind and kind.target_shape else 0
    measured = _distances(history)
    if entries < ENTRIES_RARE or len(loss) < STEPS_MIN or measured is None:
        return None
    steps, distance, spread, usual = measured
    share = distance**2 / (entries * spread**2)
    far, between = _far_and_between(distance, usual)
    hit = far & (share > OUTLIER_SHARE)
    losses = loss.values.astype(np.float64)
    spike = losses > SPIKE * _neighbours(losses)
    _, ours, theirs = np.intersect1d(steps, loss.steps, return_indices=True)
    # A spike with ordinary targets has another cause, such as the learning rate.
    usual_spike = spike[theirs] & ~(far | between)[ours]
    if not hit[ours].any() or between.sum() > hit.sum() or usual_spike.any():
        return None
    unexplained = (losses[theirs] * entries / distance[ours] ** 2)[hit[ours]]
    late = unexplained[len(unexplained) // 2 :]
    if spike.sum() < SPIKES_MIN or np.median(late) < UNEXPLAINED_MIN:
        return None
    return RareOutliers(
        int(spike.sum()),
        len(losses),
        float(losses[spike].sum() / losses.sum()),
        float(distance[hit].min() / usual),
    )


def _far_and_between(distance: Array, usual: float) -> tuple[Bools, Bools]:
    """Return which batches have an outlier, and which fill the gap, for their largest distance."""
    far = distance > OUTLIER_DISTANCE * usual
    return far, (distance > GAP_DISTANCE * usual) & ~far


def _distances(history: History) -> tuple[Steps, Array, Array, float] | None:
    """Return steps, largest distance from the centre, RMS distance, and the usual deviation."""
    low, high, mean, std = targets_of(history)
    steps = history.scalar(Scalar.TARGET_STD).steps
    if not len(low) == len(high) == len(mean) == len(std) >= BATCHES_KNOWN:
        return None
    known = np.isfinite(low) & np.isfinite(high) & np.isfinite(mean) & np.isfinite(std) & (std > 0)
    if known.sum() < BATCHES_KNOWN or 2 * known.sum() < len(known):
        return None
    low, high, mean, std = low[known], high[known], mean[known], std[known]
    centre, usual = float(np.median(mean)), float(np.quantile(std, USUAL_BATCHES))
    furthest = np.maximum(high - centre, centre - low)
    return steps[known], furthest, np.hypot(std, mean - centre), usual


def _neighbours(losses: Array) -> Array:
    """Return for each loss the lowest decile of its block of 50."""
    blocks = np.array_split(losses, max(1, len(losses) // BLOCK))
    return np.concatenate([np.full(len(b), np.quantile(b, 0.1)) for b in blocks])
