"""A curve in one line: shape, spikes and holes are seen."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainvitals.report.sparkline import BLOCKS, sparkline


def test_a_rising_curve_rises():
    assert sparkline(range(8), 8) == BLOCKS


def test_a_spike_of_one_step_in_ten_thousand_is_seen():
    curve = np.ones(10_000)
    curve[6_543] = 50
    drawn = sparkline(curve, 40)
    assert drawn.count("█") == 1
    assert drawn.index("█") == 26


def test_a_curve_over_many_decades_is_drawn_by_its_logarithm():
    assert sparkline([1e-8, 1e-6, 1e-4, 1e-2], 4) == "▁▃▆█"


def test_infinity_has_a_sign_and_what_was_not_measured_is_a_hole():
    assert sparkline([1, np.inf, np.nan, 2], 4) == "▁× █"


def test_nothing_to_draw_is_nothing():
    assert sparkline([]) == ""
    assert sparkline([np.nan, np.nan]) == ""


@given(st.lists(st.floats(width=32), max_size=300), st.integers(1, 60))
def test_any_curve_has_a_line_of_at_most_the_columns_asked_for(values, columns):
    drawn = sparkline(values, columns)
    assert len(drawn) <= columns
    assert set(drawn) <= set(BLOCKS + "× ")
