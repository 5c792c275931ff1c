"""Downsample rows to spans that keep every spike: minimum, mean, maximum, last value, counts.

Comes in: values, shape (rows, series); NaN means "not measured".
Goes out: `Spans`: for each span of rows and each series, the minimum, mean, maximum and last of
          the finite values, the number of finite values and the number of infinite values.
Promise:  merging spans in any grouping gives the same extremes and counts, and the same mean up
          to rounding.
Pure numpy. The tiers on disk and the buckets of a query use the same operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TIER_FACTOR = 16
TIERS = (1, 2, 3)
"""Tier t has one span per 16^t rows. Tier 0 is the rows themselves."""

_MIN, _MEAN, _MAX, _LAST, _COUNT, _INFINITE = range(6)
FIELDS = 6


@dataclass(frozen=True)
class Spans:
    """Spans of rows, ordered by first step. `fields` is float64, shape (6, spans, series)."""

    first: Steps
    last: Steps
    rows: Steps
    """Number of rows of each span."""
    fields: Floats

    @classmethod
    def of_rows(cls, steps: Steps, values: npt.NDArray[np.float32]) -> Spans:
        """Return one span for each row."""
        fields = np.empty((FIELDS, *values.shape))
        finite = np.isfinite(values)
        fields[:4] = np.where(finite, values, np.nan)
        fields[_COUNT] = finite
        fields[_INFINITE] = np.isinf(values)
        return cls(steps, steps, np.ones(len(steps), np.int64), fields)

    @classmethod
    def folded_rows(cls, steps: Steps, values: npt.NDArray[np.float32], n: int) -> Spans:
        """Return `of_rows(steps, values).every(n)`, several times faster for finite values."""
        spans = len(steps) // n
        rest = cls.of_rows(steps[spans * n :], values[spans * n :]).every(n)
        # One array for all: to join the rest afterwards would copy every field.
        folded = np.empty((FIELDS, spans + len(rest), values.shape[1]))
        folded[:, spans:] = rest.fields
        whole = values[: spans * n].reshape(spans, n, values.shape[1])
        fields = folded[:, :spans]
        # fmin and fmax skip NaN, so a series that is NaN in every span has no values.
        fields[_MIN], fields[_MAX] = np.fmin.reduce(whole, axis=1), np.fmax.reduce(whole, axis=1)
        fields[_MEAN] = whole.mean(axis=1, dtype=np.float64)
        fields[_LAST] = whole[:, -1]
        fields[_COUNT], fields[_INFINITE] = n, 0
        # Series that are never measured are common: those of statistics of other places.
        absent = np.isnan(fields[_MIN]).all(axis=0)
        fields[:_COUNT, :, absent], fields[_COUNT, :, absent] = np.nan, 0
        # NaN and infinities reach the mean. Their series are folded again. An index would order the
        # copy by series, and a fold of it would take several times as long.
        gaps = ~absent & ~np.isfinite(fields[_MEAN]).all(axis=0)
        if gaps.any():
            fields[:, :, gaps] = _folded_gaps(np.compress(gaps, whole, axis=2))
        first = np.append(steps[: spans * n : n], rest.first)
        last = np.append(steps[n - 1 :: n][:spans], rest.last)
        return cls(first, last, np.append(np.full(spans, n), rest.rows), folded)

    @classmethod
    def joined(cls, parts: Sequence[Spans], series: int) -> Spans:
        """Return all parts as one, in order of their first step."""
        if not parts:
            none = np.empty(0, np.int64)
            return cls(none, none, none, np.empty((FIELDS, 0, series)))
        first = np.concatenate([part.first for part in parts])
        last = np.concatenate([part.last for part in parts])
        rows = np.concatenate([part.rows for part in parts])
        fields = np.concatenate([part.fields for part in parts], axis=1)
        if np.all(first[1:] >= first[:-1]):
            return cls(first, last, rows, fields)
        order = np.argsort(first, kind="stable")
        return cls(first[order], last[order], rows[order], fields[:, order])

    def part(self, start: int, stop: int) -> Spans:
        """Return the spans from `start` to before `stop`."""
        cut = slice(start, stop)
        return Spans(self.first[cut], self.last[cut], self.rows[cut], self.fields[:, cut])

    def __len__(self) -> int:
        return len(self.first)

    def _field(self, index: int) -> Floats:
        field: Floats = self.fields[index]
        return field

    @property
    def minimum(self) -> Floats:
        """Minimum of the finite values; NaN where there are none."""
        return self._field(_MIN)

    @property
    def mean(self) -> Floats:
        """Mean of the finite values; NaN where there are none."""
        return self._field(_MEAN)

    @property
    def maximum(self) -> Floats:
        """Maximum of the finite values; NaN where there are none."""
        return self._field(_MAX)

    @property
    def newest(self) -> Floats:
        """The last finite value; NaN where there is none."""
        return self._field(_LAST)

    @property
    def count(self) -> Floats:
        """Number of finite values."""
        return self._field(_COUNT)

    @property
    def infinite(self) -> Floats:
        """Number of values that were +Inf or −Inf."""
        return self._field(_INFINITE)

    def folded(self, starts: npt.NDArray[np.intp]) -> Spans:
        """Return fewer spans: span i merges the spans from starts[i] to before starts[i + 1].

        `starts` begins with 0 and increases strictly.
        """
        if not len(self):
            return self
        f, folded = self.fields, np.empty((FIELDS, len(starts), self.fields.shape[2]))
        folded[_MIN] = np.fmin.reduceat(f[_MIN], starts)
        folded[_MAX] = np.fmax.reduceat(f[_MAX], starts)
        folded[_COUNT] = np.add.reduceat(f[_COUNT], starts)
        folded[_INFINITE] = np.add.reduceat(f[_INFINITE], starts)
        counts = folded[_COUNT]
        # Weight each mean by its share of the count. A sum of all values, divided by the count
        # afterwards, overflows when the values are near the largest float.
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
        last = np.maximum.reduceat(self.last, starts)
        return Spans(self.first[starts], last, np.add.reduceat(self.rows, starts), folded)

    def every(self, n: int) -> Spans:
        """Return spans that each merge `n` of these; the last may merge fewer."""
        return self.folded(np.arange(0, len(self), n))

    def buckets(self, n: int) -> Spans:
        """Return at most `n` spans of equal width in steps; no input span is split."""
        if len(self) <= n:
            return self
        lo, hi = int(self.first[0]), int(self.first[-1]) + 1
        bucket = (self.first - lo) * n // max(1, hi - lo)
        starts = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
        return self.folded(starts)


def _folded_gaps(values: npt.NDArray[np.float32]) -> Floats:
    """Return the fields of spans with values that are not finite.

    `values` has the shape (spans, rows of a span, series), the result (6, spans, series).
    """
    finite = np.isfinite(values)
    known = np.where(finite, values, np.float32(np.nan))
    fields = np.empty((FIELDS, len(values), values.shape[2]))
    fields[_MIN], fields[_MAX] = np.fmin.reduce(known, axis=1), np.fmax.reduce(known, axis=1)
    fields[_COUNT] = count = finite.sum(axis=1)
    fields[_INFINITE] = np.isinf(values).sum(axis=1)
    total = np.where(finite, values, np.float32(0)).sum(axis=1, dtype=np.float64)
    fields[_MEAN] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    newest = values.shape[1] - 1 - np.argmax(finite[:, ::-1], axis=1)
    # Where no value is finite, `newest` is the last row, whose known value is NaN.
    fields[_LAST] = np.take_along_axis(known, newest[:, None], axis=1)[:, 0]
    return fields
