"""Student's t distribution, intervals of a mean, and the paired test over seeds.

Source: Student 1908; Abramowitz & Stegun 1964, 26.7.3 and 26.7.4 (closed forms for whole degrees
of freedom); Bonferroni's correction: Dunn 1961.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def t_p_value(t: float, freedom: int) -> float:
    """Return P(|T| ≥ |t|) for `freedom` ≥ 1 degrees of freedom, 0 to 1."""
    if math.isinf(t):
        return 0.0
    angle = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        total, term = 0.0, cosine
        for k in range(3, freedom + 1, 2):
            total += term
            term *= cosine * cosine * (k - 1) / k
        inside = 2 / math.pi * (angle + sine * total)
    else:
        total, term = 0.0, 1.0
        for k in range(2, freedom + 1, 2):
            total += term
            term *= cosine * cosine * (k - 1) / k
        inside = sine * total
    return min(1.0, max(0.0, 1 - inside))


def t_quantile(level: float, freedom: int) -> float:
    """Return t with P(|T| ≤ t) = `level`, for 0 < level < 1."""
    low, high = 0.0, 1.0
    while t_p_value(high, freedom) > 1 - level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_p_value(middle, freedom) > 1 - level else (low, middle)
    return (low + high) / 2


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the t interval of the mean of at least two values."""
    mean, deviation = _moments(values)
    half = t_quantile(level, len(values) - 1) * deviation / math.sqrt(len(values))
    return mean - half, mean + half


def paired_p(differences: Sequence[float], resolution: float = 0.0) -> float:
    """Return the two-sided p value of a mean difference of 0, from at least two pairs.

    `resolution`: the smallest difference that the measurement can show. The standard deviation is
    taken as at least half of it: two equal differences of one sample each prove nothing. 1.0 if
    all differences are 0.
    """
    mean, deviation = _moments(differences)
    if mean == 0:
        return 1.0
    deviation = max(deviation, resolution / 2)
    if deviation == 0:
        return 0.0
    return t_p_value(mean / (deviation / math.sqrt(len(differences))), len(differences) - 1)


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (n − 1) of at least two values."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} values; expected at least 2.")
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance)
