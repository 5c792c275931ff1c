"""The statistics under the rules hold for any numbers, NaN and infinities among them."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trainvitals.diagnosis import signals

numbers = st.floats(-1e6, 1e6, width=32)
anything = st.floats(width=32)
columns = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=numbers)
wild = hnp.arrays(np.float32, st.tuples(st.integers(0, 30), st.integers(1, 4)), elements=anything)


@given(wild)
def test_no_function_warns_or_raises_on_nan_infinity_or_nothing(values):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error", RuntimeWarning)
        signals.median(values)
        signals.trend(signals.block_means(values, 10))
        signals.noise(values[:, 0])
        signals.trailing_run(values > 0)
        signals.log10(values)


@given(columns)
def test_the_median_is_numpys_where_nothing_is_missing(values):
    assert np.allclose(signals.median(values), np.median(values, axis=0), rtol=1e-6)


@given(hnp.arrays(np.float32, st.integers(0, 30), elements=anything))
def test_the_median_of_one_curve_is_exactly_that_of_a_column(values):
    assert np.array_equal(signals.middle(values), signals.median(values), equal_nan=True)


def test_the_median_leaves_out_what_was_not_measured():
    assert signals.median([[1.0], [np.nan], [3.0], [np.nan], [50.0]])[0] == 3.0


def test_the_median_of_nothing_is_not_a_number():
    assert np.isnan(signals.median([[np.nan], [np.nan]]))[0]


@given(hnp.arrays(np.bool_, st.tuples(st.integers(0, 20), st.integers(1, 3))))
def test_a_trailing_run_counts_the_newest_rows_that_hold(condition):
    expected = []
    for column in condition.T:
        run = 0
        while run < len(column) and column[len(column) - 1 - run]:
            run += 1
        expected.append(run)
    assert signals.trailing_run(condition).tolist() == expected


@given(st.floats(0.01, 10), st.floats(-5, 5))
def test_the_noise_of_a_curve_is_blind_to_its_trend(std, slope):
    values = np.random.default_rng(1).normal(0, std, 2000) + slope * np.arange(2000)
    assert signals.noise(values) == pytest.approx(std, rel=0.15)


def test_the_noise_is_blind_to_single_outliers():
    values = np.random.default_rng(1).normal(0, 1, 500)
    values[::50] = 1e6
    assert signals.noise(values) == pytest.approx(1, rel=0.3)


def test_robust_z_excludes_the_value_it_judges():
    values = np.r_[np.random.default_rng(0).normal(0, 1, 64), 100.0]
    z = signals.robust_z(values, 64)
    assert z[-1] > 50
    assert np.isnan(z[:64]).all()


def test_a_constant_window_has_a_floor_under_its_spread():
    assert np.isfinite(signals.robust_z(np.r_[np.ones(64), 1.1], 64)[-1])


@given(columns)
def test_block_means_keep_the_overall_mean_when_blocks_are_equal(values):
    doubled = np.repeat(values, 2, axis=0)
    means = signals.block_means(doubled, len(values))
    assert np.allclose(means, values, rtol=1e-5, atol=1e-3)


def test_a_steady_rise_is_a_trend_with_its_slope():
    p, slope = signals.trend(np.arange(10.0)[:, None] * 3)
    assert p[0] < 0.001
    assert slope[0] == 3.0


def test_noise_alone_is_rarely_a_trend():
    p, _ = signals.trend(np.random.default_rng(0).normal(size=(10, 2000)))
    assert (p < 0.01).mean() < 0.02


@given(columns)
def test_a_trend_turned_around_has_the_opposite_slope(values):
    forward, backward = signals.trend(values), signals.trend(values[::-1])
    assert np.allclose(forward.slope, -backward.slope, rtol=1e-5, atol=1e-4)
    assert np.allclose(forward.p, backward.p)


def test_the_first_finite_value_of_each_column():
    values = np.array([[np.nan, 1.0, np.nan], [2.0, 3.0, np.inf]])
    np.testing.assert_array_equal(signals.first_finite(values), [2.0, 1.0, np.nan])
    assert np.isnan(signals.first_finite(np.empty((0, 2)))).all()
