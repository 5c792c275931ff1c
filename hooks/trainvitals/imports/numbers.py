"""Decimal text to the nearest float32, without the second rounding of a double between them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt


def float32_of(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the float32 nearest to each number; nan, inf and -inf are read in any case.

    Raises:
        ValueError: a text is not a number, or a finite number is outside the range of float32.
    """
    wide = np.array([float(text) for text in texts], np.float64)
    with np.errstate(over="ignore"):
        near = wide.astype(np.float32)
    overflown = np.isinf(near) & np.isfinite(wide)
    if overflown.any():
        raise ValueError(f"{texts[int(np.argmax(overflown))]!r} is outside the range of float32")
    # A double may lie in the middle of two float32 where the text does not.
    for side in (np.float32(np.inf), np.float32(-np.inf)):
        with np.errstate(all="ignore"):
            other = np.nextafter(near, side)
            middle = (near.astype(np.float64) + other.astype(np.float64)) / 2 == wide
        for at in np.flatnonzero(middle & np.isfinite(wide) & (near != wide)).tolist():
            exact, half = Fraction(texts[at].strip().replace("_", "")), Fraction(float(wide[at]))
            if exact != half:
                low, high = sorted((float(near[at]), float(other[at])))
                near[at] = np.float32(high if exact > half else low)
    return near
