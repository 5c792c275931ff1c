"""Select rows (tensors) of a history, and their statistics over a window of frames.

A training process has some hundred tensors and a history some hundred frames: rules read the
first and the newest frames, never all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainvitals.diagnosis.history import FIRST_STEPS, History, Steps, once
from trainvitals.diagnosis.signals import Floats, median
from trainvitals.wire import Place, Stat, Stream

Rows = Sequence[int]

MATRICES_MAX = 64
"""Maximum number of matrices in a median over the matrices, evenly spaced over the depth."""


class Window(NamedTuple):
    """One statistic over some frames: `values` has shape (frames, rows)."""

    steps: Steps
    values: Floats


def window(
    history: History,
    stream: Stream,
    statistic: Stat,
    rows: Rows,
    *,
    first: int = 0,
    last: int = 0,
) -> Window:
    """Return the `first` and the `last` stored frames of some rows, each frame once."""
    steps = history.steps(stream)
    n = len(steps)
    if n == 0 or len(rows) == 0:
        return Window(steps[:0], np.empty((0, len(rows))))
    first = min(first, n)
    frames = np.concatenate([np.arange(first), np.arange(max(first, n - last), n)])
    values = history.values(stream, statistic)[np.ix_(frames, np.asarray(rows, np.intp))]
    return Window(steps[frames], values.astype(np.float64))


def both_ends(history: History, stream: Stream, statistic: Stat, rows: Rows) -> Window:
    """Return the first steps and the newest 128 frames."""
    return window(history, stream, statistic, rows, first=FIRST_STEPS, last=128)


def is_matrix(place: Place) -> bool:
    """Whether the place is a trainable weight of two or more dimensions, without embeddings."""
    return place.kind == "weight" and len(place.shape) >= 2 and place.trainable


@once
def is_recurrent(history: History) -> bool:
    """Return whether the model has a recurrent layer: its loss often stays level at first."""
    return any("recurrent" in p.flags for p in history.places(Stream.WEIGHT))


@once
def starts_slowly(history: History) -> bool:
    """Return whether the model has a recurrent layer or a convolution over time.

    Its loss often stays at that of a constant for hundreds of steps, until it uses the sequence.
    """
    over_time = any("Conv1d" in p.module_kind for p in history.places(Stream.WEIGHT))
    return over_time or is_recurrent(history)


@once
def matrices_by_depth(history: History, stream: Stream) -> list[int]:
    """Return the rows of the weight matrices of the optimizer, in the order of the forward pass.

    If the depths are unknown, the order is the order of registration.
    """
    found = [
        (place.depth, row)
        for row, place in enumerate(history.places(stream))
        if is_matrix(place) and place.optimized
    ]
    known = [(depth, row) for depth, row in found if depth >= 0]
    return [row for _, row in sorted(known if len(known) >= 2 else found)]


def spread_over(rows: list[int], most: int = MATRICES_MAX) -> list[int]:
    """Return at most `most` of the rows, evenly spaced, including the first and the last."""
    if len(rows) <= most:
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int)]


@once
def _root_counts(history: History, stream: Stream) -> Floats:
    """Return the square roots of the tensors' numbers of entries, at least 1; shape (places,)."""
    roots: Floats = np.sqrt([float(math.prod(p.shape) or 1) for p in history.places(stream)])
    return roots


def rms_window(
    history: History, stream: Stream, rows: Rows, *, first: int = 0, last: int = 0
) -> Window:
    """Return the RMS of some tensors of the weight or gradient stream over a window of frames."""
    seen = window(history, stream, Stat.L2, rows, first=first, last=last)
    roots = _root_counts(history, stream)[np.asarray(rows, np.intp)]
    return Window(seen.steps, seen.values / roots)


def rows_named(history: History, stream: Stream, names: Sequence[str]) -> list[int | None]:
    """Return the row of each name in `stream`; None for an unknown name."""
    at = history.rows(stream)
    return list(map(at.get, names))


def medians_named(
    history: History, stream: Stream, statistic: Stat, names: Sequence[str], **part: int
) -> Floats:
    """Return the median of a statistic over some frames for each name; NaN for an unknown one.

    `part` is `first` or `last`, as for `window`.
    """
    found, rows = np.full(len(names), np.nan), rows_named(history, stream, names)
    known = [i for i, row in enumerate(rows) if row is not None]
    seen = window(history, stream, statistic, [row for row in rows if row is not None], **part)
    if len(seen.steps) and known:
        found[known] = median(seen.values)
    return found


def range_before(history: History, stream: Stream, row: int, step: int) -> tuple[float, int]:
    """Return (largest |value| of a row in the captured step before `step`, that step).

    (NaN, −1) if no earlier step was captured.
    """
    steps = history.steps(stream)
    at = int(np.searchsorted(steps, step)) - 1
    if at < 0:
        return float("nan"), -1
    low, high = (history.values(stream, s)[at, row] for s in (Stat.MIN, Stat.MAX))
    return float(max(abs(low), abs(high))), int(steps[at])


def layer_of(place: Place) -> str:
    """Return the name of a parameter's layer."""
    return place.module or place.name


def called(place: Place) -> str:
    """Return the name of a layer for a sentence: "layer 3" where the name is only a number, "the
    model" for a model that is a single layer."""
    name = layer_of(place) or "the model"
    return f"layer {name}" if name.replace(".", "").isdigit() else name


def units_before(history: History, depth: int) -> int | None:
    """Return the number of outputs of the last weight at or before `depth`; None if unknown."""
    widths = [(at, width) for at, width in _widths(history) if at <= depth]
    return max(widths)[1] if widths else None


@once
def _widths(history: History) -> list[tuple[int, int]]:
    """Return (depth, number of outputs) of each weight matrix with a known depth."""
    return [
        (place.depth, place.shape[0])
        for place in history.places(Stream.WEIGHT)
        if place.depth >= 0 and len(place.shape) >= 2 and place.kind == "weight"
    ]


def has_no_offset(history: History) -> bool:
    """Whether all parameters are weights of linear and convolutional layers."""
    places = history.places(Stream.WEIGHT)
    kinds = {(p.kind, p.module_kind.rstrip("123d")) for p in places}
    return bool(places) and kinds <= {("weight", "Linear"), ("weight", "Conv")}
