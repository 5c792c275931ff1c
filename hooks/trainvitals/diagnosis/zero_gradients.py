"""Layers that run and whose gradients are exactly 0 in all measured steps.

Comes in: a history, and the parameters that the optimizer holds.
Goes out: which of them have no effect on the loss, since when, and the cause if it is known.
Promise:  pure. A layer whose gradient is stopped by another one with dead units is left out.
Start at `zero_gradients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import both_ends, rows_named
from trainvitals.diagnosis.signals import Flags
from trainvitals.wire import Place, Stat, Stream

SILENT_MAX = 1e-5
"""Standard deviation across samples up to which the outputs of a layer are the same."""
FACTORS_MIN = 2
"""Layers of zeros that can multiply each other: the gradient of a single one is not 0."""


class ZeroGradients(NamedTuple):
    """Parameters with gradients of 0, as flags; `reason` is the end of a sentence."""

    found: Flags
    since: int
    reason: str


def zero_gradients(
    history: History, owned: Sequence[Place], rows: Sequence[int], observations: int
) -> ZeroGradients | None:
    """Return the layers with a weight matrix whose gradients were 0 in all measured steps.

    `rows` are those of `owned` in the gradient stream; `observations` is the minimum number of
    measured steps. None where all gradients are 0: a loss of 0 has no gradient at all.
    """
    size = both_ends(history, Stream.GRADIENT, Stat.L2, rows)
    if len(size.steps) < observations:
        return None
    zero: Flags = np.all(size.values == 0, axis=0)
    found, reason = _without_effect(history, owned, zero), ": the loss does not depend on it"
    if not found.any():
        found = _factors_of_zeros(history, owned, zero)
        reason = ": the weights are exactly 0 too, as of two factors that are both 0"
    if not found.any() or found.all():
        return None
    return ZeroGradients(found, int(size.steps[0]), reason)


def _without_effect(history: History, owned: Sequence[Place], zero: Flags) -> Flags:
    """Return the parameters of layers whose outputs differ between samples, without any gradient.

    Not before a layer with the same output for all samples, which stops the gradient.
    """
    layers = {p.module for p, z in zip(owned, zero, strict=True) if z and len(p.shape) >= 2}
    alive = {p.module for p, z in zip(owned, zero, strict=True) if not z}
    varied = _varied(history) & layers - alive
    silent = _deepest_silent(history)
    return np.array([p.module in varied and p.depth > silent for p in owned], bool)


def _factors_of_zeros(history: History, owned: Sequence[Place], zero: Flags) -> Flags:
    """Return the matrices and embeddings of zeros that ran and got gradients of 0: two or more.

    In a product of two factors that are both 0, the gradient of each is the other one: 0. None, if
    the deepest layer with a gradient of 0 has other weights: it stops the gradient then.
    """
    nothing = np.zeros(len(owned), bool)
    at = rows_named(history, Stream.WEIGHT, [p.name for p in owned])
    known = [i for i, row in enumerate(at) if row is not None]
    seen = both_ends(history, Stream.WEIGHT, Stat.L2, [row for row in at if row is not None])
    if len(seen.steps) == 0:
        return nothing
    empty = nothing.copy()
    empty[known] = np.all(seen.values == 0, axis=0)
    ran = _measured(history)
    matrix = np.array([len(p.shape) >= 2 and p.module in ran for p in owned], bool)
    stopped = [(p.depth, e) for p, e, z in zip(owned, empty, zero & matrix, strict=True) if z]
    found: Flags = zero & empty & matrix
    return found if found.sum() >= FACTORS_MIN and max(stopped)[1] else nothing


def _measured(history: History) -> set[str]:
    """Return the modules that returned an output in the newest measured step."""
    places = history.places(Stream.ACTIVATION)
    seen = both_ends(history, Stream.ACTIVATION, Stat.MEAN, range(len(places)))
    if len(seen.steps) == 0:
        return set()
    values = zip(places, seen.values[-1], strict=True)
    return {p.module or p.name for p, mean in values if not np.isnan(mean)}


def _varied(history: History) -> set[str]:
    """Return the modules whose newest measured outputs differ between samples."""
    places = history.places(Stream.ACTIVATION)
    seen = both_ends(history, Stream.ACTIVATION, Stat.SAMPLE_STD, range(len(places)))
    if len(seen.steps) == 0:
        return set()
    return {p.module or p.name for p, s in zip(places, seen.values[-1], strict=True) if s > 0}


def _deepest_silent(history: History) -> int:
    """Return the depth of the deepest module whose newest measured outputs are silent; else −1.

    Silent: all units were 0, or the outputs were the same for all samples.
    """
    places = history.places(Stream.ACTIVATION)
    depths = [-1]
    for statistic, limit in ((Stat.INACTIVE_SHARE, 1.0), (Stat.SAMPLE_STD, SILENT_MAX)):
        seen = both_ends(history, Stream.ACTIVATION, statistic, range(len(places)))
        for place, value in zip(places, seen.values[-1] if len(seen.steps) else (), strict=False):
            silent = value >= limit if statistic is Stat.INACTIVE_SHARE else value <= limit
            depths += [place.depth] * bool(silent)
    return max(depths)
