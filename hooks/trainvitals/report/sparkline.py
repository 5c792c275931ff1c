"""Draw a curve in one line of text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCKS = "▁▂▃▄▅▆▇█"
NONFINITE = "×"
LOG_FROM = 100.0
"""Ratio of largest to smallest value above which the scale is logarithmic."""


def sparkline(values: npt.ArrayLike, columns: int = 40) -> str:
    """Return the curve in at most `columns` characters.

    Each character shows the point of its bucket that is farthest from the median of all points, so
    that a spike of one step is visible; a bucket with ±Inf shows `×`, one with only NaN (not
    measured) a space. Positive curves over more than two decades have a logarithmic scale. "" if
    there is no finite point.
    """
    curve = np.asarray(values, np.float64)
    finite = curve[np.isfinite(curve)]
    if columns < 1 or not len(curve) or not len(finite):
        return ""
    heights = curve
    if finite.min() > 0 and finite.max() / finite.min() > LOG_FROM:
        heights = np.log(np.where(curve > 0, curve, np.nan))
        heights[np.isinf(curve)] = np.inf
        finite = np.log(finite)
    low, high = float(finite.min()), float(finite.max())
    middle = float(np.median(finite))
    return "".join(
        _block(bucket, low, high, middle)
        for bucket in np.array_split(heights, min(columns, len(heights)))
    )


def _block(bucket: npt.NDArray[np.float64], low: float, high: float, middle: float) -> str:
    if np.isinf(bucket).any():
        return NONFINITE
    points = bucket[np.isfinite(bucket)]
    if not len(points):
        return " "
    point = float(points[np.argmax(np.abs(points - middle))])
    level = (point - low) / (high - low) if high > low else 0.0
    return BLOCKS[min(len(BLOCKS) - 1, int(level * len(BLOCKS)))]
