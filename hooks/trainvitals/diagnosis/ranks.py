"""Compare what two ranks of a run measured: gradient norms, and the L2 norms of their weights.

Comes in: the history of the lowest rank and that of another one, from the collector.
Goes out: arrays over their common steps, and whether the two train separate models (`separate`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.signals import Floats
from trainvitals.wire import Place, Scalar, Stat, Stream

_NORMS: Final = (Scalar.GRADIENT_NORM_BEFORE_CLIPPING, Scalar.GRADIENT_NORM)
_SETTINGS: Final = (Scalar.LEARNING_RATE, Scalar.WEIGHT_DECAY)
MOVED_MIN: Final = 1e-5
"""Relative change of the L2 norm of a parameter from which the training has moved it."""
SAME_MAX: Final = 1e-6
"""Relative difference of two L2 norms up to which they are of the same weights: a few units in the
last place of float32, because devices add in a different order."""
TOGETHER_MAX: Final = 0.1
"""Part of its largest difference up to which a parameter was brought together again, if all were at
the same step. Only for PARAMETERS_MIN or more: the differences of few fall by chance."""
PARAMETERS_MIN: Final = 4
EQUAL_SHARE_MAX: Final = 0.02
"""Share of steps at which the gradient norms of separate models may be equal, by chance."""


class Norms(NamedTuple):
    """Gradient norms of two ranks at their common steps; `relative` is their difference."""

    steps: npt.NDArray[np.int64]
    ours: npt.NDArray[np.float32]
    theirs: npt.NDArray[np.float32]
    relative: Floats


class Weights(NamedTuple):
    """L2 norms of the same parameters on two ranks, each of shape (common steps, parameters)."""

    steps: npt.NDArray[np.int64]
    places: list[Place]
    ours: npt.NDArray[np.float32]
    theirs: npt.NDArray[np.float32]


class Separate(NamedTuple):
    """Two ranks that train models of their own.

    `name` is the parameter that differs most at the newest common step, `relative` by how much,
    `since` the first common step at which a parameter differs. `start_is_equal`: all weights were
    equal at the first step. `parameters`: the number that the training moves; `outside`: of these,
    the number outside of the wrapped part of the model, if they alone differ; 0 if all differ.
    """

    rank: int
    norms: Norms
    name: str
    since: int
    relative: float
    first: float
    other: float
    start_is_equal: bool
    parameters: int
    outside: int


def relative(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Floats:
    """Return |a − b| divided by the larger magnitude, 0 where both are 0 or one is not finite."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = np.maximum(np.abs(x), np.abs(y))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.abs(x - y) / scale
    return np.where(np.isfinite(difference), difference, 0.0)


def trailing(flags: npt.NDArray[np.bool_]) -> int:
    """Return how many of the newest flags in a row are true."""
    false = np.flatnonzero(~flags)
    return len(flags) - (int(false[-1]) + 1 if len(false) else 0)


def gradient_norms(history: History, other: History, least: int) -> Norms:
    """Return the norms before clipping if they have `least` common steps, otherwise those after."""
    for name in _NORMS:
        ours, theirs = (h.scalar(name).finite() for h in (history, other))
        steps, i, j = np.intersect1d(ours.steps, theirs.steps, return_indices=True)
        if len(steps) >= least:
            break
    a, b = ours.values[i], theirs.values[j]
    return Norms(steps, a, b, relative(a, b))


def weights(history: History, other: History) -> Weights | None:
    """Return the L2 norms of the parameters of equal name and shape; None if there are none.

    Parameters that are divided over the ranks are left out.
    """
    its = other.places(Stream.WEIGHT)
    rows = {p.name: k for k, p in enumerate(its)}
    both = [
        (k, rows[p.name])
        for k, p in enumerate(history.places(Stream.WEIGHT))
        if p.name in rows and "shard" not in p.flags and p.shape == its[rows[p.name]].shape
    ]
    if not both:
        return None
    a, b = np.array(both).T
    steps, i, j = np.intersect1d(
        history.steps(Stream.WEIGHT), other.steps(Stream.WEIGHT), return_indices=True
    )
    return Weights(
        steps,
        [history.places(Stream.WEIGHT)[k] for k in a],
        history.values(Stream.WEIGHT, Stat.L2)[i[:, None], a],
        other.values(Stream.WEIGHT, Stat.L2)[j[:, None], b],
    )


def separate(
    history: History,
    rank: int,
    other: History,
    *,
    steps_apart: int,
    steps_weight: int,
    equal_max: float,
    gradient_max: float,
) -> Separate | None:
    """Return how two ranks train models of their own; None if that does not follow.

    It follows if both are the same program with the same settings, their gradient norms are never
    equal, and the weights that the training moves differ at the newest `steps_weight` common steps
    and were never brought together. Weights that stay equal on both ranks prove a reduction: the
    others are then named only if they are outside of a wrapped part of the model, began equal, and
    are no experts.
    """
    norms = gradient_norms(history, other, steps_apart)
    if len(norms.steps) < steps_apart or not _is_same_program(history, other, steps_apart):
        return None
    equal = (norms.relative <= equal_max).mean()
    if equal > EQUAL_SHARE_MAX or np.median(norms.relative) <= gradient_max:
        return None
    seen = weights(history, other)
    if seen is None or len(seen.steps) <= steps_weight:
        return None
    differences = relative(seen.ours, seen.theirs)
    moved = _moved(seen)
    if moved is None:
        return None
    stays_equal = (differences[-steps_weight:] <= SAME_MAX).all(axis=0)
    judged = moved & ~stays_equal
    is_part = bool((moved & stays_equal).any())
    started_at = int(history.facts.get("start_step", 0))
    starts_equal = differences[0] <= equal_max
    if not judged.any() or (is_part and not _is_forgotten_part(history, seen, moved, judged)):
        return None
    if _were_brought_together(seen, differences, judged):
        return None
    start_is_equal = bool(starts_equal[judged].all())
    if not start_is_equal and (
        is_part
        or seen.steps[0] != started_at  # the initial weights are not known
        or _is_one_loss(history, other, equal_max)
    ):
        return None
    at = int(np.argmax(np.where(judged, differences[-1], -1.0)))
    differs = (differences[:, judged] > SAME_MAX).any(axis=1)
    return Separate(
        rank,
        norms,
        seen.places[at].name,
        int(seen.steps[np.argmax(differs)]),
        float(differences[-1, at]),
        float(seen.ours[-1, at]),
        float(seen.theirs[-1, at]),
        start_is_equal,
        parameters=int(moved.sum()),
        outside=int(judged.sum()) if is_part else 0,
    )


def _is_same_program(history: History, other: History, first_steps: int) -> bool:
    """Whether both ranks have the same parameters, a loss and, at first, the same settings.

    Later a scheduler that reads the loss of a rank may change the settings of this rank alone.
    A rank without a loss is a stage of a pipeline, or an actor that does not train.
    """
    if history.places(Stream.WEIGHT) != other.places(Stream.WEIGHT):
        return False
    if not all(len(h.scalar(Scalar.LOSS)) for h in (history, other)):
        return False
    names = [
        {name for name in h.scalar_names() if name.partition("/")[0] in _SETTINGS}
        for h in (history, other)
    ]
    if names[0] != names[1]:
        return False
    for name in names[0]:
        ours, theirs = history.scalar(name), other.scalar(name)
        _, i, j = np.intersect1d(ours.steps, theirs.steps, return_indices=True)
        i, j = i[:first_steps], j[:first_steps]
        if not np.array_equal(ours.values[i], theirs.values[j]):
            return False
    return True


def _is_one_loss(history: History, other: History, equal_max: float) -> bool:
    """Whether both ranks have the same losses: each computes a part of one model, such as a slice
    of each layer (tensor parallelism with plain tensors), or the program has averaged them."""
    ours, theirs = (h.scalar(Scalar.LOSS).finite() for h in (history, other))
    _, i, j = np.intersect1d(ours.steps, theirs.steps, return_indices=True)
    return bool(len(i)) and bool(np.median(relative(ours.values[i], theirs.values[j])) <= equal_max)


def _moved(seen: Weights) -> npt.NDArray[np.bool_] | None:
    """Return which parameters the training has moved on both ranks, shape (parameters,).

    None before it has moved half of those that it updates.
    """
    is_trained = np.array([p.trainable and p.optimized for p in seen.places])
    moved = np.logical_and(
        relative(seen.ours[0], seen.ours[-1]) > MOVED_MIN,
        relative(seen.theirs[0], seen.theirs[-1]) > MOVED_MIN,
    )
    moved &= is_trained
    return moved if moved.any() and 2 * moved.sum() >= is_trained.sum() else None


def _is_forgotten_part(
    history: History,
    seen: Weights,
    moved: npt.NDArray[np.bool_],
    judged: npt.NDArray[np.bool_],
) -> bool:
    """Whether all that differs is outside of the wrapped modules, and all that is equal inside."""
    wrapped = str(history.facts.get("data_parallel", "")).split(",")
    if wrapped == [""] or "." in wrapped:
        return False
    inside = np.array([any(p.name.startswith(f"{w}.") for w in wrapped) for p in seen.places])
    names = [p.name.lower() for p, wanted in zip(seen.places, judged, strict=True) if wanted]
    has_experts = any("expert" in name for name in names)
    return bool(np.array_equal(judged, moved & ~inside)) and not has_experts


def _were_brought_together(
    seen: Weights, differences: Floats, judged: npt.NDArray[np.bool_]
) -> bool:
    """Whether all weights that had differed came together at a step, as after an average."""
    apart = (differences[:, judged] > SAME_MAX).all(axis=1)
    if not apart.any():
        return False
    start = int(np.argmax(apart))
    a, b = (x[start:, judged].astype(np.float64) for x in (seen.ours, seen.theirs))
    distance = np.abs(a - b)
    largest = np.maximum.accumulate(distance, axis=0)[:-1]
    part = TOGETHER_MAX if judged.sum() >= PARAMETERS_MIN else 0.0
    near = np.maximum(part * largest, SAME_MAX * np.maximum(np.abs(a), np.abs(b))[1:])
    return bool((distance[1:] <= near).all(axis=1).any())
