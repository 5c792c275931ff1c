"""The scale of a loss that can be below zero: a likelihood of numbers.

Comes in: a history. Goes out: a `Likelihood`, or None for other losses and for an unknown constant.
Promise:  pure; the levels of a loss are not below 0, and keep the order of its values.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from trainvitals.diagnosis.history import History, Series, Values, once
from trainvitals.diagnosis.signals import Array
from trainvitals.diagnosis.supervision import (
    NORMAL_LIKELIHOOD,
    LossKind,
    loss_of_constant,
    only_loss,
)
from trainvitals.wire import Scalar

NOISE_MAX: Final = 0.15
"""Standard deviation of a Poisson loss of predictions that equal the targets, from batch to batch,
as a share of what can be learned: with more, the loss shows which targets a batch has."""


class Likelihood(NamedTuple):
    """A negative log-likelihood L, for which the best constant prediction gives C.

    Its level is 1 at C and 0 at the least loss. For numbers with a predicted variance there is no
    least loss: the level is e^(2·(L − C)/n) below C, with n for one nat per element. This is the
    share of the targets' variance that is left, as in a squared error that is divided by the
    variance. Above C it is 1 + 2·(L − C)/n, as for a squared error with a fixed variance.
    """

    constant: float
    unit: float
    """C less the least loss; or n/2."""
    is_bounded: bool
    """Whether there is a least loss."""

    def levels(self, losses: Array) -> Values:
        """Return the levels of losses."""
        above = (losses.astype(np.float64) - self.constant) / self.unit
        below = np.maximum(1 + above, 0) if self.is_bounded else np.exp(np.minimum(above, 0))
        return np.where(above < 0, below, 1 + above).astype(np.float32)

    def loss(self, level: float) -> float:
        """Return the loss of a level."""
        linear = self.is_bounded or level > 1
        above = level - 1 if linear else math.log(max(level, math.ulp(0)))
        return self.constant + self.unit * above

    def of(self, losses: Series) -> Series:
        """Return the levels of a series of losses."""
        return Series(losses.steps, self.levels(losses.values))


@once
def likelihood(history: History) -> Likelihood | None:
    """Return the scale of the run's only loss if one of its terms is such a likelihood."""
    kind, constant = only_loss(history), loss_of_constant(history)
    if kind is None or constant is None:
        return None
    if (nat := _nat(kind)) > 0:
        return Likelihood(constant, nat / 2, is_bounded=False)
    least = history.scalar(Scalar.LOSS_OF_TARGETS).finite().values.astype(np.float64)
    learnable = constant - float(least.mean()) if len(least) else 0.0
    if not learnable > 0 or float(least.std()) > NOISE_MAX * learnable:
        return None
    return Likelihood(constant, learnable, is_bounded=True)


def _nat(kind: LossKind) -> float:
    """Return what a nat per element adds to the loss where a variance is predicted; otherwise 0.

    NaN if the graph does not show it.
    """
    if not kind.terms:
        return kind.scale if kind.kinds == (NORMAL_LIKELIHOOD,) else 0.0
    return sum(s for k, s in zip(kind.terms, kind.scales, strict=False) if k == NORMAL_LIKELIHOOD)
