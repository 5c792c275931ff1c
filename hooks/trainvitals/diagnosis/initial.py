"""The initial state of a run: the scale of its weights, and the expected initial loss.

Comes in: a history. Goes out: `weight_gains`, `now_of`, `initial_loss`.
Promise:  pure; empty or None if the start of the run, the loss or the layer kind is unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.history import History, once
from trainvitals.diagnosis.likelihood import likelihood
from trainvitals.diagnosis.loss_parts import loss_parts
from trainvitals.diagnosis.places import rms_window
from trainvitals.diagnosis.signals import middle
from trainvitals.diagnosis.supervision import (
    BINARY_LOSSES,
    DISTANCES,
    NORMAL_LIKELIHOOD,
    LossKind,
    has_class_head,
    loss_of_constant,
    only_loss,
)
from trainvitals.wire import EventKind, Place, Scalar, Stream

START: Final = 3
"""Last step at which the state of a run counts as its initial state."""
LAYERS: Final = (
    *("Linear", "Conv1d", "Conv2d", "Conv3d", "RNN", "LSTM", "GRU", "MultiheadAttention"),
    *("RNNCell", "LSTMCell", "GRUCell"),
)
"""Modules whose weights have one row for each output: the fan-in is the product of the rest."""
_CLASSES: Final = ("CrossEntropyLoss", "NLLLoss")
_TARGET_BATCHES: Final = 16
"""Measured batches from the start whose targets give the scale of a regression."""


_DISTANCES: Final[Mapping[str, tuple[Callable[[float], float], str]]] = MappingProxyType(
    {
        "MSELoss": (lambda power: power, "mean square of the targets"),
        "HuberLoss": (lambda power: power / 2, "half the mean square of the targets"),
        "L1Loss": (math.sqrt, "root mean square of the targets"),
        "SmoothL1Loss": (math.sqrt, "root mean square of the targets"),
    }
)
"""The largest loss of the prediction 0 for targets of a mean square, and its description."""


_SCORES: Final = re.compile(r"in_proj|qkv|query|key|\b(w?q|w?k)(_proj|_lin)?\.", re.IGNORECASE)
"""Names of weights that make queries or keys."""
_SQUARES: Final = ("MSELoss", "HuberLoss")


class Gain(NamedTuple):
    """The scale of a weight matrix: RMS(W)·√fan_in, the factor on inputs of unit scale."""

    place: Place
    row: int
    value: float


@once
def weight_gains(history: History) -> list[Gain]:
    """Return the gain of the weight matrices of known layers at the start, by depth.

    PyTorch's default for Linear and convolutions has 0.58, Xavier about 1, He √2; tanh needs 5/3. A
    layer whose output a normalisation layer rescales is left out, and so are shards.
    """
    steps = history.steps(Stream.WEIGHT)
    if len(steps) == 0 or steps[0] > START:
        return []
    rows = [i for i, p in enumerate(history.places(Stream.WEIGHT)) if _has_gain(p)]
    return sorted(_gains(history, rows, first=1), key=lambda g: (g.place.depth, g.row))


@once
def attention_gains(history: History) -> list[Gain]:
    """Return the gain of the weights that make queries and keys at the start, by depth.

    A normalisation layer behind the attention does not rescale its scores. Shards are left out.
    """
    steps = history.steps(Stream.WEIGHT)
    if len(steps) == 0 or steps[0] > START:
        return []
    rows = [
        i
        for i, p in enumerate(history.places(Stream.WEIGHT))
        if len(p.shape) == 2
        and p.kind == "weight"
        and "attention" in p.flags
        and "shard" not in p.flags
        and _SCORES.search(p.name)
    ]
    return sorted(_gains(history, rows, first=1), key=lambda g: (g.place.depth, g.row))


def now_of(history: History, gain: Gain) -> float:
    """Return the gain of the same matrix at the newest captured step."""
    return _gains(history, [gain.row], last=1)[0].value


def _gains(history: History, rows: list[int], *, first: int = 0, last: int = 0) -> list[Gain]:
    if not rows:
        return []
    seen = rms_window(history, Stream.WEIGHT, rows, first=first, last=last)
    places = history.places(Stream.WEIGHT)
    return [
        Gain(places[row], row, float(rms) * math.sqrt(math.prod(places[row].shape[1:])))
        for row, rms in zip(rows, seen.values[-1], strict=True)
    ]


def _has_gain(place: Place) -> bool:
    return (
        place.kind == "weight"
        and len(place.shape) >= 2
        and place.module_kind in LAYERS
        and not {"before_norm", "shard"} & {*place.flags}
    )


class InitialLoss(NamedTuple):
    """The loss at the start of a run, and that of a prediction that ignores the input."""

    step: int
    seen: float
    expected: float
    """ln C for a cross entropy over C classes, ln 2 for a binary one, E[y²] for a squared error,
    E[y²]/2 for a Huber loss, and √E[y²], an upper bound, for an absolute or smooth one; for a sum
    of them, what constant predictions would give."""
    formula: str
    """How `expected` was derived: "ln 10"."""
    power: int
    """The power of the predictions' distance from the targets in the loss: 2 for a squared and a
    Huber error, and a sum with numbers; 3 for a likelihood with a predicted variance; otherwise
    1."""
    explained: bool
    """The measured predictions account for a loss that is this far above the expected one."""


@once
def initial_loss(history: History) -> InitialLoss | None:
    """Return the loss at the start and the expected one; None if either is unknown.

    Only for a program with a single loss with the reduction "mean", and for a loss with a lower
    bound. The loss at the start is the first loss, or the median of the first three if lower.
    """
    kind, loss = only_loss(history), Course(history).loss
    if kind is None or kind.wiring or len(loss) == 0 or loss.steps[0] > START:
        return None
    seen = min(float(loss.values[0]), middle(loss.values[:3]))
    if kind.terms:
        return _sum(history, kind, int(loss.steps[0]), seen)
    if len(kind.kinds) != 1 or kind.scale != 1 or _reductions(history) != {"mean"}:
        return None
    name, first = kind.kinds[0], _first_prediction(history)
    if first is None:
        return None
    step = int(loss.steps[0])
    if name in _CLASSES and kind.classes > 1:
        expected = math.log(kind.classes)
        # A cross entropy is at most ln C + the largest difference of two logits. A weighted sum
        # with another term can be larger: that is no evidence about the predictions.
        explained = seen - expected <= 1.05 * (first["max"] - first["min"])
        return InitialLoss(step, seen, expected, f"ln {kind.classes}", 1, explained)
    if name in BINARY_LOSSES:
        largest = max(abs(first["max"]), abs(first["min"]))
        explained = name == "BCELoss" or seen - math.log(2) <= 1.05 * largest
        return InitialLoss(step, seen, math.log(2), "ln 2", 1, explained)
    if name in _DISTANCES:
        return _distance(history, name, step, seen, first)
    return None


def initial_likelihood(history: History) -> InitialLoss | None:
    """Return the level of a normal distribution's likelihood at the start; see `Likelihood`.

    The expected one is that of the mean 0 and the variance 1, or of the best constants if those are
    worse.
    """
    kind, scale, loss = only_loss(history), likelihood(history), Course(history).loss
    if kind is None or scale is None or kind.kinds != (NORMAL_LIKELIHOOD,) or kind.wiring:
        return None
    targets = _moments_of_targets(history)
    if targets is None or not targets.variance > 0 or len(loss) == 0 or loss.steps[0] > START:
        return None
    expected = max(1.0, targets.mean_square - math.log(targets.variance))
    seen = min(float(loss.values[0]), middle(loss.values[:3]))
    return InitialLoss(int(loss.steps[0]), seen, expected, "mean 0 and variance 1", 3, True)


def _sum(history: History, kind: LossKind, step: int, seen: float) -> InitialLoss | None:
    """Return the initial loss of a sum whose terms are all measured."""
    parts, expected = loss_parts(history), loss_of_constant(history)
    if likelihood(history):
        return None  # its size is not that of an error
    if len(parts) != len(kind.terms) or expected is None or not expected > 0:
        return None
    if kind.classes and not has_class_head(history, kind.classes):
        return None  # a contrastive loss, whose temperature makes the first logits large
    whole = sum(float(part.values[0]) for part in parts)
    # A first prediction of 0 is further from the targets than the best constant.
    power = 2 if {*DISTANCES} & {*kind.terms} else 1
    formula = "the sum of its terms for constant predictions"
    return InitialLoss(step, seen, expected, formula, power, seen <= 1.05 * whole)


def _distance(
    history: History, name: str, step: int, seen: float, first: Mapping[str, float]
) -> InitialLoss | None:
    targets = _moments_of_targets(history)
    if targets is None or not targets.mean_square > 0:
        return None
    power = targets.mean_square
    # What predictions of this mean and spread cost if they are independent of the targets.
    cost = (first["mean"] - targets.first_mean) ** 2 + first["std"] ** 2 + targets.first_std**2
    limit, formula = _DISTANCES[name]
    explained = seen <= 3 * limit(cost)
    return InitialLoss(step, seen, limit(power), formula, 2 if name in _SQUARES else 1, explained)


class _Targets(NamedTuple):
    """The targets of the first measured batches."""

    mean_square: float
    variance: float
    """The mean of the variances of the batches."""
    first_mean: float
    first_std: float


def _moments_of_targets(history: History) -> _Targets | None:
    mean, std = (
        history.scalar(name).finite().values[:_TARGET_BATCHES].astype(float)
        for name in (Scalar.TARGET_MEAN, Scalar.TARGET_STD)
    )
    if len(mean) == 0 or len(mean) != len(std):
        return None
    mean_square = float((mean**2 + std**2).mean())
    return _Targets(mean_square, float((std**2).mean()), float(mean[0]), float(std[0]))


def _first_prediction(history: History) -> Mapping[str, float] | None:
    """Return min, max, mean and std of the first measured prediction; None if unknown."""
    found = {}
    for key, name in _PREDICTION.items():
        series = history.scalar(name)
        if len(series) == 0 or series.steps[0] > START:
            return None
        found[key] = float(series.values[0])
    return found if all(map(math.isfinite, found.values())) else None


_PREDICTION: Final = MappingProxyType(
    {
        "min": Scalar.PREDICTION_MIN,
        "max": Scalar.PREDICTION_MAX,
        "mean": Scalar.PREDICTION_MEAN,
        "std": Scalar.PREDICTION_STD,
    }
)


def _reductions(history: History) -> set[str]:
    return {
        str(e.attributes.get("reduction", "mean"))
        for e in history.events
        if e.kind == EventKind.LOSS_KIND
    }
