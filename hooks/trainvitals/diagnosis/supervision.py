"""What a run's training loss computes, as the events of kind `loss_kind` describe it.

Comes in: a history. Goes out: `LossKind`s, and the token of a faulty connection that still holds.
Promise:  pure; an attribute that is missing or unreadable is empty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.api.schema import Evidence
from trainvitals.diagnosis.history import History, once
from trainvitals.diagnosis.signals import Array, middle
from trainvitals.wire import Event, EventKind, Place, Scalar, Stream

UNIT_MAX = 2.0
"""Factor on a loss below which it is a weight, not another unit."""
REPAIRED_AFTER = 8
"""Steps. Within fewer, a second loss of the same kind is another loss of the same program."""

DOWNSTREAM = frozenset(
    {
        *("TV101", "TV102", "TV105", "TV106", "TV107", "TV201", "TV202", "TV203", "TV305"),
        *("TV501", "TV502", "TV503", "TV504", "TV505", "TV506", "TV507"),
        *("TV601", "TV602", "TV604", "TV606", "TV701", "TV806", "TV807", "TV808"),
    }
)
"""Rules whose findings a faulty connection of model, loss and targets can cause."""


_MOMENTS = (
    *(Scalar.PREDICTION_MIN, Scalar.PREDICTION_MAX),
    *(Scalar.PREDICTION_MEAN, Scalar.PREDICTION_STD),
    *(Scalar.TARGET_MEAN, Scalar.TARGET_STD),
)
_CLASS_LOSSES = (("CrossEntropyLoss",), ("NLLLoss",))
BINARY_LOSSES = ("BCELoss", "BCEWithLogitsLoss")
DISTANCES = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss")
"""Losses that compare numbers."""
NORMAL_LIKELIHOOD = "GaussianNLLLoss"
"""The loss of numbers with a predicted variance; it can be below zero."""


class LossKind(NamedTuple):
    """One of the different training losses of a run."""

    step: int
    """The step at which it was first seen."""
    kinds: tuple[str, ...]
    """The equivalent loss modules of torch, nearest to the loss first: ("CrossEntropyLoss",)."""
    wiring: tuple[str, ...]
    """Suspicious connections: ("softmax_before_cross_entropy",)."""
    last_activation: str
    detached_terms: tuple[str, ...]
    prediction_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    target_type: str
    classes: int
    ignored_class: int | None
    """The class whose samples do not count, by the ignore_index of a loss with one class number for
    each sample; None without such a class."""
    position_read: str
    """If the loss reads one position of each sequence of a token model: last or earlier; labelled
    if the other positions have labels too."""
    activation_outside: bool
    """The last activation is computed after the model's output: in the program's loss."""
    positive_weight: float
    """The smallest `pos_weight` of a binary cross entropy; 0 without one."""
    class_weights: tuple[float, ...]
    """The weight of each class of a cross entropy; empty without weights."""
    terms: tuple[str, ...]
    """The kinds of the terms, one for each, if the loss is a sum of several: nearest first."""
    scales: tuple[float, ...]
    """Each term divided by the mean over its supervised elements; NaN where it is not known."""
    scale: float
    """The loss divided by the mean over the supervised elements, if its graph shows a factor that
    changes its unit: 1/256 for a mean that is divided by 256, 64 for a sum over 64. Otherwise 1."""


@once
def loss_kinds(history: History) -> list[LossKind]:
    """Return the different training losses of the run, oldest first."""
    return [_read(e) for e in history.events if e.kind == EventKind.LOSS_KIND]


def connected(history: History, tokens: Collection[str]) -> tuple[LossKind, str] | None:
    """Return the loss with one of the `tokens` in its wiring, and the token; None without one.

    A loss of the same kind without the token, seen clearly later, replaces it: it was repaired.
    """
    known = loss_kinds(history)
    for kind in known:
        for token in kind.wiring:
            if token in tokens and not any(
                later.kinds == kind.kinds
                and token not in later.wiring
                and later.step > kind.step + REPAIRED_AFTER
                for later in known
            ):
                return kind, token
    return None


def in_graph(token: str) -> Evidence:
    """Return the evidence of a faulty connection that the graph of the loss shows."""
    return Evidence(
        quantity="wrong connections in the graph of the loss",
        seen=1.0,
        limit=0.0,
        direction="above",
        healthy=(0.0, 0.0),
        text=token,
    )


@once
def only_loss(history: History) -> LossKind | None:
    """Return the newest loss if all losses of the run have its kind and its last activation.

    Scalars of predictions and targets do not name the loss that they belong to.
    """
    known = loss_kinds(history)
    if len({(k.kinds, k.last_activation) for k in known}) != 1:
        return None
    return known[-1]


def has_kind(history: History, kinds: Collection[str]) -> bool:
    """Whether the run has one loss, and one of its terms is of these kinds."""
    kind = only_loss(history)
    return kind is not None and not {*kind.kinds}.isdisjoint(kinds)


def class_loss(history: History) -> LossKind | None:
    """Return the run's loss if it is one cross entropy of classes; otherwise None."""
    kind = only_loss(history)
    return kind if kind is not None and kind.kinds in _CLASS_LOSSES else None


def has_class_head(history: History, classes: int) -> bool:
    """Whether the model's output layer has one output for each class.

    In a contrastive loss the classes are samples.
    """
    return any(
        "output" in p.flags and p.shape[:1] == (classes,) for p in history.places(Stream.WEIGHT)
    )


class Shares(NamedTuple):
    """Shares of the most frequent class of each measured batch, 0 to 1; shapes (batches,)."""

    steps: npt.NDArray[np.int64]
    predicted: Array
    targets: Array


def shares_of_largest(history: History) -> Shares:
    """Return the shares at the steps at which both predictions and targets were measured."""
    predicted, targets = (
        history.scalar(name)
        for name in (Scalar.PREDICTED_MAJORITY_SHARE, Scalar.TARGET_MAJORITY_SHARE)
    )
    steps, ours, theirs = np.intersect1d(predicted.steps, targets.steps, return_indices=True)
    return Shares(steps, predicted.values[ours], targets.values[theirs])


def output_module(history: History) -> str:
    """Return the name of the module whose output the loss takes; "" if it is not known."""
    place = output_place(history)
    return "" if place is None else place.name


def output_place(history: History) -> Place | None:
    """Return the module whose output the loss takes; None if it is not known."""
    places = [p for p in history.places(Stream.ACTIVATION) if "output" in p.flags]
    return places[0] if len(places) == 1 else None


@once
def loss_of_constant(history: History) -> float | None:
    """Return the loss of the best prediction that ignores the input; None if it is not known.

    In the unit of the program's loss (`LossKind.scale`). For a cross entropy, the entropy of the
    class frequencies in nats (ln C before the first histogram of the targets); for a squared error,
    the variance of the targets, of each output alone where it is known; for a binary cross entropy
    of one label for each sample, the entropy of the mean target. For other losses of torch and for
    sums of them, what capture measured.
    """
    kind = only_loss(history)
    if kind is None:
        return None
    is_alone = len(kind.kinds) == 1 and not kind.terms
    mean = _mean_of_constant(history, kind) if is_alone else None
    return _measured_constant(history) if mean is None else mean * kind.scale


def _measured_constant(history: History) -> float | None:
    measured = history.scalar(Scalar.LOSS_OF_CONSTANT).finite().values
    return float(measured.mean()) if len(measured) else None


def _mean_of_constant(history: History, kind: LossKind) -> float | None:
    if kind.kinds[0] == "MSELoss":
        of_outputs = history.scalar(Scalar.TARGET_STD_OF_OUTPUTS).finite().values
        deviation = history.scalar(Scalar.TARGET_STD).finite().values
        found = of_outputs if len(of_outputs) else deviation
        return middle(found.astype(np.float64) ** 2) if len(found) else None
    if kind.kinds[0] in BINARY_LOSSES:
        return _binary(history) if math.prod(kind.target_shape[1:]) == 1 else None
    if kind.kinds[0] not in ("CrossEntropyLoss", "NLLLoss"):
        return None
    histograms = [e for e in history.events if e.kind == EventKind.CLASS_HISTOGRAM]
    if not histograms:
        return float(np.log(kind.classes)) if kind.classes > 1 else None
    counts = np.array([float(n) for n in histograms[-1].attributes.values()])
    shares = counts[counts > 0] / max(counts.sum(), 1.0)
    return float(-(shares * np.log(shares)).sum()) or None


def entropy_of(share: float) -> float:
    """Return the entropy of an event of this probability in nats; 0 outside 0 to 1."""
    if not 0 < share < 1:
        return 0.0
    return -share * math.log(share) - (1 - share) * math.log(1 - share)


@once
def usual_loss_of_constant(history: History) -> float | None:
    """Return `loss_of_constant`, or a value that is right for usual targets.

    For an absolute or a Huber loss (δ = 1, as in a smooth L1 loss), that of normal targets: with
    heavy tails it is lower. For several binary labels of which none is masked, the entropy of the
    mean target: for labels of different frequencies it is lower.
    """
    if (known := loss_of_constant(history)) is not None:
        return known
    kind = only_loss(history)
    if kind is None or kind.terms:
        return None
    if len(kind.kinds) == 1 and kind.kinds[0] in BINARY_LOSSES:
        mean = _binary(history) if _all_count(history) else None
        return None if mean is None else mean * kind.scale
    if kind.kinds not in _DISTANCES:
        return None
    deviation = history.scalar(Scalar.TARGET_STD).finite().values
    if len(deviation) == 0:
        return None
    errors = middle(deviation) * _NORMAL
    if kind.kinds == ("L1Loss",):
        return float(errors.mean()) * kind.scale
    huber = np.where(errors < 1, 0.5 * errors**2, errors - 0.5)
    return float(huber.mean()) * kind.scale


def _binary(history: History) -> float | None:
    share = history.scalar(Scalar.TARGET_MEAN).finite().values
    return entropy_of(float(share.mean())) or None if len(share) else None


def _all_count(history: History) -> bool:
    """Whether no target is masked: a masked sum is divided by a number that is not known."""
    return bool((history.scalar(Scalar.SUPERVISED_SHARE).values == 1).all())


_DISTANCES = (("L1Loss",), ("SmoothL1Loss",), ("HuberLoss",))
_NORMAL = np.array([abs(NormalDist().inv_cdf((i + 0.5) / 200)) for i in range(200)])
"""Magnitudes of a standard normal variable: 200 quantiles."""

TAIL_DISTANCE = 4.5
"""Distance of a target from the mean of its batch in standard deviations, from which a few targets
may hold the deviation: the largest of 64 normal values has 2.4, one of two equal outliers 5.6."""
USUAL_BATCHES = 0.1
"""Share of the batches with a smaller standard deviation than the usual one."""
BATCHES_KNOWN = 8


def usual_deviation(history: History) -> float:
    """Return the standard deviation of the targets in a batch without outliers.

    The 10 % quantile over the measured batches. NaN if targets are not measured, and before eight
    batches as long as a few distant targets can hold the deviation.
    """
    low, high, mean, std = targets_of(history)
    known = np.isfinite(std)
    if not known.any():
        return math.nan
    if len(std) < BATCHES_KNOWN and len(low) == len(high) == len(mean) == len(std):
        furthest = np.maximum(high - mean, mean - low)[known]
        if (furthest > TAIL_DISTANCE * std[known]).any():
            return math.nan
    return float(np.quantile(std[known], USUAL_BATCHES))


def targets_of(history: History) -> list[Array]:
    """Return min, max, mean and standard deviation of the targets of each measured batch."""
    return [
        history.scalar(name).values.astype(np.float64)
        for name in (
            Scalar.TARGET_MIN,
            Scalar.TARGET_MAX,
            Scalar.TARGET_MEAN,
            Scalar.TARGET_STD,
        )
    ]


GROWTH_BATCHES = 5
"""Measured batches in each median of the size of the targets."""


def target_growth(history: History, since: int, jump_max: float) -> float:
    """Return the RMS of the targets now, divided by that at step `since`: 1.5 is half more.

    Medians of five measured batches. 1 if the targets are not known, or if they grew to more than
    `jump_max` times their size from five batches to the next five: a bootstrapped target r + γ·Q
    about doubles at most, so the data changed.
    """
    mean, std = (history.scalar(name).finite() for name in (Scalar.TARGET_MEAN, Scalar.TARGET_STD))
    steps, ours, theirs = np.intersect1d(mean.steps, std.steps, return_indices=True)
    n = GROWTH_BATCHES
    start = max(0, int(np.searchsorted(steps, since, side="right")) - n)
    rms = np.hypot(mean.values[ours], std.values[theirs]).astype(np.float64)[start:]
    if len(rms) < 2 * n or not rms.min() > 0:
        return 1.0
    levels = np.median(np.lib.stride_tricks.sliding_window_view(rms, n), axis=1)
    jump = float((levels[n:] / levels[:-n]).max())
    return float(levels[-1] / levels[0]) if jump <= jump_max else 1.0


def largest_loss(history: History) -> float:
    """Return an upper bound of the first loss, from the first predictions and targets.

    For a cross entropy, ln C plus the largest difference of two logits; for a squared error, the
    squared sum of the distance of the means and both standard deviations. Infinity if unknown.
    """
    kind = only_loss(history)
    if kind is None or kind.terms or len(kind.kinds) != 1:
        return float("inf")
    first = [history.scalar(name).finite().values[:1] for name in _MOMENTS]
    if any(len(values) == 0 for values in first[:4]):
        return float("inf")
    low, high, mean, std = (float(values[0]) for values in first[:4])
    if kind.kinds[0] in ("CrossEntropyLoss", "NLLLoss") and kind.classes > 1:
        return kind.scale * (float(np.log(kind.classes)) + high - low)
    if kind.kinds[0] != "MSELoss" or any(len(values) == 0 for values in first[4:]):
        return float("inf")
    target_mean, target_std = (float(values[0]) for values in first[4:])
    return kind.scale * (abs(mean - target_mean) + std + target_std) ** 2


def _read(event: Event) -> LossKind:
    given = event.attributes
    return LossKind(
        event.step,
        _parts(event.text, " + "),
        _parts(given.get("wiring", ""), ","),
        str(given.get("last_activation", "")),
        _parts(given.get("detached_terms", ""), ","),
        _shape(given.get("prediction_shape", "")),
        _shape(given.get("target_shape", "")),
        str(given.get("target_type", "")),
        int(float(given.get("classes", 0.0))),
        _whole(given.get("ignored_class", "")),
        str(given.get("position_read", "")),
        bool(given.get("activation_outside", 0.0)),
        float(given.get("positive_weight", 0.0)),
        tuple(map(float, _parts(given.get("class_weights", ""), ","))),
        _parts(given.get("terms", ""), ","),
        tuple(map(float, _parts(given.get("scales", ""), ","))),
        _scale(float(given.get("scale", 1.0))),
    )


def _scale(factor: float) -> float:
    """Return the factor, or 1 for a weight of usual size, such as that of label smoothing."""
    unusual = factor > 0 and not 1 / UNIT_MAX < factor < UNIT_MAX
    return factor if unusual else 1.0


def _whole(text: object) -> int | None:
    return int(str(text)) if str(text).isdecimal() else None


def _parts(text: object, separator: str) -> tuple[str, ...]:
    return tuple(part for part in str(text).split(separator) if part)


def _shape(text: object) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", str(text))))
