"""The terms of a loss that is a sum: what each adds, and what a constant prediction would add.

Comes in: a history. Goes out: one `Part` for each term that capture measured.
Promise:  pure; nothing for a loss of one term, or for a program with different losses.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.diagnosis.history import History, once
from trainvitals.diagnosis.signals import Array, middle
from trainvitals.diagnosis.supervision import only_loss
from trainvitals.wire import Scalar

BATCHES: Final = 5
"""Measured batches from the start in the first value of a term, and in its newest one."""
LEARNED: Final = 0.1
"""Fall of a term as a share of its start, and its distance from the constant, that is learning."""


class Part(NamedTuple):
    """One term, at the steps at which it was measured; shapes (steps,)."""

    kind: str
    """The equivalent loss module of torch: "SmoothL1Loss"."""
    steps: npt.NDArray[np.int64]
    values: Array
    """What the term adds to the loss."""
    constants: Array
    """What it would add for the best prediction that ignores the input."""
    scale: float
    """The term divided by its mean over the supervised elements; NaN if it is not known."""

    @property
    def first(self) -> float:
        """The median of its first values."""
        return middle(self.values[:BATCHES])

    @property
    def shares(self) -> Array:
        """What the term adds, divided by what it would add for the best constant, in each step."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.constants > 0, self.values / self.constants, np.nan)

    @property
    def constant(self) -> float:
        """The mean of the constant's values."""
        return float(self.constants.mean())


def a_term_is_learned(history: History) -> bool:
    """Return whether a term has fallen, and is below what a constant prediction would give.

    The loss may rise meanwhile: a codebook, or a penalty, can add more while the model learns.
    """
    return any(
        middle(part.values[-BATCHES:]) < (1 - LEARNED) * part.first
        and middle(part.shares[-BATCHES:]) < 1 - LEARNED
        for part in loss_parts(history)
        if len(part.steps) > BATCHES
    )


def no_term_is_worse(history: History, than: float) -> bool:
    """Return whether each term, relative to its constant, is at most `than` times its best.

    False without measured terms. Terms whose targets grow, as those of a codebook, rise with them.
    """
    parts = [part for part in loss_parts(history) if len(part.steps) > 2 * BATCHES]
    return bool(parts) and all(
        middle(part.shares[-BATCHES:]) <= than * _best(part.shares) for part in parts
    )


def _best(shares: Array) -> float:
    windows = np.lib.stride_tricks.sliding_window_view(shares, BATCHES)
    return float(np.nanmin(np.median(windows, axis=1)))


@once
def loss_parts(history: History) -> list[Part]:
    """Return the measured terms of the program's only loss, nearest to the loss first."""
    kind = only_loss(history)
    if kind is None:
        return []
    found = []
    for i, term in enumerate(kind.terms):
        value, constant = (
            history.scalar(f"{name}/{i}").finite()
            for name in (Scalar.PART_OF_LOSS, Scalar.PART_OF_CONSTANT)
        )
        steps, ours, theirs = np.intersect1d(value.steps, constant.steps, return_indices=True)
        if len(steps):
            values, constants = value.values[ours], constant.values[theirs]
            scale = kind.scales[i] if i < len(kind.scales) else math.nan
            found.append(Part(term, steps, values.astype(float), constants.astype(float), scale))
    return found
