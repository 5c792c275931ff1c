"""Order the samples of a step by how likely each caused the fault."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
QUANTITIES: Final = ("loss", "gradient_norm", "input_rms")
PLACES_AFTER: Final = ("loss", "gradient")


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of the replayed step. Numbers that are not finite are null in JSON."""

    index: int
    """In the dataset."""
    row: int
    """Row of the batch, counted over the batches of the step."""
    loss: float
    gradient_norm: float
    """L2 norm of the gradient of this sample's loss with respect to all parameters."""
    input_rms: float
    """Root mean square of the floating-point inputs of the sample; NaN without one."""
    nonfinite_in: str = ""
    """Where the sample is not finite first: "input", "target", a module, "loss", "gradient"; "":
    nowhere."""
    share: float = 0.0
    """The largest of its shares in the sums over the step of loss, gradient norm and input RMS,
    0 to 1; 1 for a sample that is not finite."""
    reason: str = ""
    """The quantity of `share`: loss, gradient_norm, input_rms or nonfinite."""


def shares(values: Values) -> Values:
    """Return the share of each value in the sum of all, 0 to 1; values that are not finite count 0.

    If a value is negative, distances from the smallest one are compared.
    """
    finite = np.isfinite(values)
    usable = np.where(finite, values, 0.0)
    if finite.any() and usable.min() < 0:
        usable = np.where(finite, usable - values[finite].min(), 0.0)
    total = usable.sum()
    return usable / total if total > 0 else np.zeros(len(values))


def ranked(samples: Sequence[Sample], places: Sequence[str]) -> list[Sample]:
    """Return the samples with their shares, the worst first.

    First those that are not finite, by the place where they are not finite first, in the order of
    `places`, in which the forward pass reaches them; then by share.
    """
    columns = {
        name: shares(np.array([getattr(sample, name) for sample in samples], np.float64))
        for name in QUANTITIES
    }
    found = []
    for at, sample in enumerate(samples):
        reason = max(QUANTITIES, key=lambda name: float(columns[name][at]))
        share = float(columns[reason][at])
        if sample.nonfinite_in:
            reason, share = "nonfinite", 1.0
        found.append(msgspec.structs.replace(sample, share=share, reason=reason))
    order = {place: at for at, place in enumerate((*places, *PLACES_AFTER))}
    return sorted(found, key=lambda s: (order.get(s.nonfinite_in, math.inf), -s.share))
