"""The t distribution agrees with tables, and the paired test with the definition."""

import math
import random

import pytest

from trainvitals.experiments.paired import interval, paired_p, t_p_value, t_quantile


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)],
)
def test_the_quantiles_are_those_of_the_tables(freedom, t):
    assert t_quantile(0.95, freedom) == pytest.approx(t, rel=1e-5)
    assert t_p_value(-t, freedom) == pytest.approx(0.05, rel=1e-4)


def test_no_difference_has_p_1_and_a_constant_one_has_p_0():
    assert paired_p([0.0, 0.0, 0.0]) == 1.0
    assert paired_p([0.5, 0.5, 0.5]) == 0.0
    assert t_p_value(math.inf, 4) == 0.0


def test_equal_differences_of_one_sample_each_prove_nothing():
    assert paired_p([0.01, 0.01], resolution=0.01) > 0.05


def test_the_interval_contains_the_mean_in_95_of_100_cases():
    draws = random.Random(0)
    hits = 0
    for _ in range(1000):
        low, high = interval([draws.gauss(3, 2) for _ in range(5)])
        hits += low <= 3 <= high
    assert 930 <= hits <= 970


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        interval([1.0])
