"""Test whether the targets depend on the inputs, whatever the model has learned.

Comes in: the input of the model and the target of the loss, of one sampled step after the other.
Goes out: one 0-dim tensor when enough samples have come, on their device, without a
          synchronisation.
Promise:  at most SAMPLES_MAX samples are kept, and none after the last test.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from trainvitals.capture.supervised_values import sample
from trainvitals.wire import Scalar

SAMPLES: Final = (256, 512)
"""Numbers of samples after which the test is made."""
SAMPLES_MAX: Final = SAMPLES[-1]
FEATURES_MAX: Final = 256
"""Maximum number of entries of an input, and of a target of numbers, that are compared."""
CLASSES_MAX: Final = 16
"""Maximum number of class numbers of a target, such as the pixels of a mask, that are compared."""
DIFFERENT_MIN: Final = 64
"""Minimum number of different inputs."""
EQUAL_MAX: Final = 2e-3
"""Distance of two inputs, as a share of the mean, up to which rounding alone can separate them."""
CODES_MAX: Final = 16
"""Maximum number of features that can be identifiers; images of whole numbers have more."""
BATCH_MIN: Final = 4
"""With fewer samples in a batch, hundreds of steps would be needed."""


class Dependence:
    """Collects the first samples of a run and tests them once for each number of SAMPLES."""

    def __init__(self) -> None:
        self._x: Tensor | None = None
        self._y: Tensor | None = None
        self._count = 0
        self._is_done = False

    def take(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Add the samples of a batch; return the t value if their number is one of SAMPLES.

        Only for inputs of floating-point numbers, no sequences, with one target each. The test ends
        for good when a batch has another form than those before.
        """
        if self._is_done or not _fits(x, target):
            return {}
        is_class = not target.is_floating_point()
        room, entries = SAMPLES_MAX - self._count, CLASSES_MAX if is_class else FEATURES_MAX
        rows, wanted = _rows(x[:room], FEATURES_MAX), _rows(target[:room], entries)
        if self._x is None or self._y is None:
            self._x = rows.new_empty((SAMPLES_MAX, rows.shape[1]))
            self._y = wanted.new_empty((SAMPLES_MAX, wanted.shape[1]))
        elif not (_alike(self._x, rows) and _alike(self._y, wanted)):
            self._end()
            return {}
        before, self._count = self._count, self._count + len(rows)
        self._x[before : self._count] = rows
        self._y[before : self._count] = wanted
        full = next((n for n in reversed(SAMPLES) if before < n <= self._count), 0)
        if not full:
            return {}
        value = dependence(self._x[:full], self._y[:full], is_class=is_class)
        if full == SAMPLES_MAX:
            self._end()
        return {Scalar.INPUT_TARGET_DEPENDENCE: value}

    def _end(self) -> None:
        self._x = self._y = None
        self._is_done = True


def dependence(x: Tensor, y: Tensor, *, is_class: bool) -> Tensor:
    """Return the t value of the distance correlation of the rows of `x` and `y`, a 0-dim tensor.

    Shapes (samples, features) and (samples, entries), float32; `is_class` counts the entries that
    differ instead of the distance of numbers. Without any dependence the value is near a standard
    normal one, whatever the number of features. Each feature is divided by its standard deviation.
    An input that came before does not count: it has the same target again, also where the targets
    were shuffled once. NaN with fewer than DIFFERENT_MIN others, if a side does not vary, and for
    up to CODES_MAX features of whole numbers: the distance of two identifiers means nothing.

    Source: Székely and Rizzo, "The distance correlation t-test of independence in high dimension",
    Journal of Multivariate Analysis 117, 2013.
    """
    is_code = (x == x.round()).all() & (x.shape[1] <= CODES_MAX)
    x = x - x.mean(0)
    x = x / x.std(0, unbiased=False).clamp_min(torch.finfo(x.dtype).tiny)
    between = torch.cdist(x, x)
    apart = sum((e[:, None] != e).to(x.dtype) for e in y.T) if is_class else torch.cdist(y, y)
    came_before = (between <= EQUAL_MAX * between.mean()).tril(-1).any(1)
    counts = ~came_before
    n = counts.sum()
    a, b = _centred(between, counts, n), _centred(apart, counts, n)
    correlation = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
    freedom = n * (n - 3) / 2 - 1
    rest = (1 - correlation.square()).clamp_min(torch.finfo(x.dtype).eps)
    is_known = (n >= DIFFERENT_MIN) & ~is_code
    return torch.where(is_known, correlation * (freedom / rest).sqrt(), torch.nan)


def _centred(distances: Tensor, counts: Tensor, n: Tensor) -> Tensor:
    """Return the U-centred distances of the `n` rows that count, 0 elsewhere and on the diagonal.

    Their products estimate the covariance of two distances without bias.
    """
    both = counts & counts[:, None]
    distances = distances * both
    rows = distances.sum(1) / (n - 2)
    centred = distances - rows[:, None] - rows + distances.sum() / ((n - 1) * (n - 2))
    return (centred * both).fill_diagonal_(0)


def _fits(x: Tensor, target: Tensor) -> bool:
    if not x.is_floating_point() or x.dtype.itemsize == 1 or target.is_complex():
        return False
    if x.dim() == 3:
        return False  # of a sequence of vectors, two positions can decide
    return x.dim() > 0 and target.dim() > 0 and BATCH_MIN <= len(x) == len(target)


def _rows(x: Tensor, entries: int) -> Tensor:
    rows = sample(x.detach(), whole=0, entries=entries * len(x)).reshape(len(x), -1)
    return rows[:, :entries].float()


def _alike(kept: Tensor, rows: Tensor) -> bool:
    return kept.shape[1] == rows.shape[1] and kept.device == rows.device
