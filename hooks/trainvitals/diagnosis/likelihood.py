"""The scale of a loss that can be below zero: the likelihood of a normal distribution.

Comes in: a history. Goes out: a `Likelihood`, or None for other losses and for an unknown constant.
Promise:  pure; the levels of a loss are above 0, and keep the order of its values.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from trainvitals.diagnosis.history import History, Series, Values, once
from trainvitals.diagnosis.signals import Array
from trainvitals.diagnosis.supervision import (
    NORMAL_LIKELIHOOD,
    LossKind,
    loss_of_constant,
    only_loss,
)


class Likelihood(NamedTuple):
    """A negative log-likelihood L, whose constant prediction gives C, and its nats per element n.

    Its level is e^(2·(L − C)/n) below C: the share of the targets' variance that is left, as in a
    squared error that is divided by the variance. Above C it is 1 + 2·(L − C)/n, because a squared
    error that is not divided by its own variance grows so.
    """

    constant: float
    unit: float
    """What a nat per element adds to the loss."""

    def levels(self, losses: Array) -> Values:
        """Return the levels of losses: 1 for that of a constant prediction."""
        nats = 2 * (losses.astype(np.float64) - self.constant) / self.unit
        levels = np.where(nats < 0, np.exp(np.minimum(nats, 0)), 1 + nats)
        return levels.astype(np.float32)

    def loss(self, level: float) -> float:
        """Return the loss of a level."""
        nats = level - 1 if level > 1 else math.log(max(level, math.ulp(0)))
        return self.constant + self.unit * nats / 2

    def of(self, losses: Series) -> Series:
        """Return the levels of a series of losses."""
        return Series(losses.steps, self.levels(losses.values))


@once
def likelihood(history: History) -> Likelihood | None:
    """Return the scale of the run's only loss if one of its terms is such a likelihood."""
    kind = only_loss(history)
    unit = 0.0 if kind is None else _unit(kind)
    constant = loss_of_constant(history) if unit > 0 else None
    return None if constant is None else Likelihood(constant, unit)


def _unit(kind: LossKind) -> float:
    """Return what a nat per element of all these terms adds to the loss; NaN if it is not known."""
    if not kind.terms:
        return kind.scale if kind.kinds == (NORMAL_LIKELIHOOD,) else 0.0
    return sum(s for k, s in zip(kind.terms, kind.scales, strict=False) if k == NORMAL_LIKELIHOOD)
