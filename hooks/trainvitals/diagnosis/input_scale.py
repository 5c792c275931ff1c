"""The scale of the inputs of the first layer at the start of a run.

Comes in: a history. Goes out: `FirstInput`; medians of scalars of the first batches.
Promise:  pure; what was not measured is NaN.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from trainvitals.diagnosis.first_layer import LINEAR, bias_of, first_weight
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import rms_window, window
from trainvitals.diagnosis.signals import middle
from trainvitals.wire import Place, Scalar, Stat, Stream

FIRST: Final = 3
"""Frames from the start: the first weights do not depend on the inputs yet."""
_WITHIN: Final = 20
"""The measurement must begin before this step."""


class FirstInput(NamedTuple):
    """The input of the first layer, as its weights and their gradient show it; NaN if unknown."""

    place: Place
    rms: float
    """RMS of the entries, from the layer's outputs."""
    spread_norm: float
    """Euclidean norm of the standard deviation across samples, from the layer's outputs."""
    gradient_rms: float
    """RMS of the entries, from the gradients of weight and bias."""


def input_of_first_layer(history: History) -> FirstInput | None:
    """Return it, or None without a first layer whose weights were measured from the start."""
    weight = first_weight(history)
    if weight is None:
        return None
    places = history.places(Stream.WEIGHT)
    rows = [i for i, p in enumerate(places) if p.name in (weight.name, bias_of(weight))]
    weights = rms_window(history, Stream.WEIGHT, rows, first=FIRST)
    if len(weights.steps) == 0 or weights.steps[0] > _WITHIN:
        return None
    scale = dict(zip((places[i].name for i in rows), map(middle, weights.values.T), strict=True))
    gradient = _gradient_rms(history, weight)
    rms = spread = math.nan
    w, b = scale[weight.name], scale.get(bias_of(weight), 0.0)
    if weight.module_kind in LINEAR and w > 0:
        outputs = history.places(Stream.ACTIVATION)
        row = next((i for i, p in enumerate(outputs) if p.name == weight.module), None)
        if row is not None:
            s, m = (
                middle(window(history, Stream.ACTIVATION, x, [row], first=FIRST).values[:, 0])
                for x in (Stat.SAMPLE_STD, Stat.UNIT_MEAN_STD)
            )
            fan_in = math.prod(weight.shape[1:])
            total = math.sqrt(max(s * s + m * m - b * b, s * s))
            rms, spread = total / (w * math.sqrt(fan_in)), s / w
    return FirstInput(weight, rms, spread, gradient)


def _gradient_rms(history: History, weight: Place) -> float:
    places = history.places(Stream.GRADIENT)
    names = {p.name: i for i, p in enumerate(places)}
    if weight.name not in names or bias_of(weight) not in names:
        return math.nan
    rows = [names[weight.name], names[bias_of(weight)]]
    gradient = rms_window(history, Stream.GRADIENT, rows, first=FIRST).values
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(gradient[:, 1] > 0, gradient[:, 0] / gradient[:, 1], np.nan)
    return middle(ratio)


def first_median(history: History, name: Scalar) -> float:
    """Return the median of a scalar of the first batches; NaN if it is not measured."""
    values = history.scalar(name).values[:FIRST].astype(float)
    return middle(values) if len(values) else math.nan


def measured_rms(history: History) -> float:
    """Return the RMS of the model's first input in the first batches; NaN if it is not measured."""
    mean, std = (
        history.scalar(name).finite().values[:FIRST]
        for name in (Scalar.INPUT_MEAN, Scalar.INPUT_STD)
    )
    if len(mean) == 0 or len(mean) != len(std):
        return math.nan
    return middle(np.hypot(mean.astype(float), std.astype(float)))
