"""Rows folded into fewer rows without losing a spike: min, mean, max, last, counts.

Comes in: values, shape (rows, series); NaN is "not measured".
Goes out: `Spans`: for each span of rows and each series the extremes and the mean over finite
          values, the last finite value, how many were finite and how many infinite.
Promise:  folding in any grouping gives the same extremes and counts; the mean up to rounding.
Pure numpy; tiers on disk and buckets of a query are the same operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TIER_FACTOR = 16
TIERS = (1, 2)
"""Beside tier 0, the rows themselves: 16 rows in one, and 256."""

_MIN, _MEAN, _MAX, _LAST, _COUNT, _INFINITE = range(6)
FIELDS = 6


@dataclass(frozen=True)
class Spans:
    """Spans of rows, first step ascending. `fields` is float64, shape (6, spans, series)."""

    first: Steps
    last: Steps
    fields: Floats

    @classmethod
    def of_rows(cls, steps: Steps, values: npt.NDArray[np.float32]) -> Spans:
        """Return one span for each row."""
        fields = np.empty((FIELDS, *values.shape))
        finite = np.isfinite(values)
        fields[:4] = np.where(finite, values, np.nan)
        fields[_COUNT] = finite
        fields[_INFINITE] = np.isinf(values)
        return cls(steps, steps, fields)

    @classmethod
    def joined(cls, parts: Sequence[Spans], series: int) -> Spans:
        """Return all parts as one, first step ascending."""
        if not parts:
            none = np.empty(0, np.int64)
            return cls(none, none, np.empty((FIELDS, 0, series)))
        first = np.concatenate([part.first for part in parts])
        last = np.concatenate([part.last for part in parts])
        fields = np.concatenate([part.fields for part in parts], axis=1)
        if np.all(first[1:] >= first[:-1]):
            return cls(first, last, fields)
        order = np.argsort(first, kind="stable")
        return cls(first[order], last[order], fields[:, order])

    def __len__(self) -> int:
        return len(self.first)

    def _field(self, index: int) -> Floats:
        field: Floats = self.fields[index]
        return field

    @property
    def minimum(self) -> Floats:
        """Over finite values; NaN where there are none."""
        return self._field(_MIN)

    @property
    def mean(self) -> Floats:
        """Over finite values; NaN where there are none."""
        return self._field(_MEAN)

    @property
    def maximum(self) -> Floats:
        """Over finite values; NaN where there are none."""
        return self._field(_MAX)

    @property
    def newest(self) -> Floats:
        """The last finite value; NaN where there is none."""
        return self._field(_LAST)

    @property
    def count(self) -> Floats:
        """How many values were finite."""
        return self._field(_COUNT)

    @property
    def infinite(self) -> Floats:
        """How many values were +Inf or −Inf."""
        return self._field(_INFINITE)

    def folded(self, starts: npt.NDArray[np.intp]) -> Spans:
        """Return fewer spans: the i-th joins those from starts[i] up to starts[i + 1].

        `starts` ascends strictly from 0.
        """
        if not len(self):
            return self
        f, folded = self.fields, np.empty((FIELDS, len(starts), self.fields.shape[2]))
        folded[_MIN] = np.fmin.reduceat(f[_MIN], starts)
        folded[_MAX] = np.fmax.reduceat(f[_MAX], starts)
        folded[_COUNT] = np.add.reduceat(f[_COUNT], starts)
        folded[_INFINITE] = np.add.reduceat(f[_INFINITE], starts)
        counts = folded[_COUNT]
        # Shares, not sums: a sum of numbers near the largest float would be infinite.
        owner = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(self))))
        with np.errstate(invalid="ignore"):
            share = f[_COUNT] / counts[owner]
        weighted = np.where(f[_COUNT] > 0, f[_MEAN] * share, 0.0)
        mean = np.add.reduceat(weighted, starts)
        folded[_MEAN] = np.where(counts > 0, mean, np.nan)
        position = np.where(f[_COUNT] > 0, np.arange(len(self))[:, None], -1)
        newest = np.maximum.reduceat(position, starts)
        folded[_LAST] = np.where(
            newest >= 0, np.take_along_axis(f[_LAST], np.maximum(newest, 0), axis=0), np.nan
        )
        return Spans(self.first[starts], np.maximum.reduceat(self.last, starts), folded)

    def every(self, n: int) -> Spans:
        """Return spans that join `n` of these each; the last may join fewer."""
        return self.folded(np.arange(0, len(self), n))

    def buckets(self, n: int) -> Spans:
        """Return at most `n` spans of equal width in steps; each span stays whole."""
        if len(self) <= n:
            return self
        lo, hi = int(self.first[0]), int(self.first[-1]) + 1
        bucket = (self.first - lo) * n // max(1, hi - lo)
        starts = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
        return self.folded(starts)
