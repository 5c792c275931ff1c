"""The functions of the chart board: gaps, merging of live points, ticks and numbers."""

import math

import pytest

from helpers.bundle import in_node


def columns(*steps, values=None, width=1, counts=None):
    """Return points as the board has them."""
    values = values or [1.0 + 0.1 * i for i in range(len(steps))]
    return {
        "step": list(steps),
        "last": [s + width - 1 for s in steps],
        "mean": values,
        "min": values,
        "max": values,
        "count": counts or [width] * len(steps),
        "bad": [0] * len(steps),
    }


def gaps(points, dropped=()):
    return in_node("points.js", "[...m.gaps(p, d)]", p=points, d=list(dropped))


def halved(points, dropped=()):
    return in_node("points.js", "m.halved(p, d)", p=points, d=list(dropped))


def test_a_dropped_interval_is_a_gap():
    assert gaps(columns(0, 1, 2, 3, 7, 8, 9), [{"first": 4, "last": 6}]) == [4]


def test_an_unexplained_hole_is_a_gap_too():
    assert gaps(columns(0, 1, 2, 3, 500, 501, 502)) == [4]


def test_a_change_of_cadence_is_no_gap():
    assert gaps(columns(*range(64), *range(64, 1000, 40))) == []


def test_merging_live_points_keeps_extremes_and_the_exact_mean():
    points = columns(0, 1, 2, 3, 4, values=[1.0, 5.0, None, 4.0, 8.0], counts=[3, 1, 0, 2, 1])
    points["bad"][2] = 7
    made = halved(points)
    assert (made["step"], made["last"]) == ([0, 2, 4], [1, 3, 4])
    assert (made["min"], made["max"]) == ([1.0, 4.0, 8.0], [5.0, 4.0, 8.0])
    assert made["mean"] == [2.0, 4.0, 8.0]
    assert (made["count"], made["bad"]) == ([4, 2, 1], [0, 7, 0])


def test_points_are_not_merged_across_a_gap():
    made = halved(columns(0, 1, 2, 500, 501, 502))
    assert list(zip(made["step"], made["last"], strict=True)) == [
        (0, 1),
        (2, 2),
        (500, 501),
        (502, 502),
    ]


def test_points_that_the_browser_has_are_not_appended_again():
    both = in_node(
        "points.js", "(m.append(p, q), p)", p=columns(0, 1, 2), q=columns(1, 2, 3, values=[9, 9, 9])
    )
    assert both["step"] == [0, 1, 2, 3]
    assert both["mean"][3] == 9


@pytest.mark.parametrize(("step", "index"), [(-5, 0), (0, 0), (14, 1), (16, 2), (99, 2)])
def test_the_cursor_takes_the_nearest_bucket(step, index):
    assert in_node("points.js", "m.nearest(p, s)", p=columns(0, 10, 20), s=step) == index


def test_smoothing_of_a_constant_changes_nothing_and_restarts_after_a_gap():
    assert in_node(
        "points.js", "m.smoothed(p, 0.95, new Set())", p=columns(0, 1, 2, values=[3, 3, 3])
    ) == pytest.approx([3, 3, 3])
    after = in_node(
        "points.js", "m.smoothed(p, 0.95, new Set([2]))", p=columns(0, 1, 9, values=[1, 1, 5])
    )
    assert after == pytest.approx([1, 1, 5])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.009999999776482582, "0.01"),
        (0, "0"),
        (12_000, "12,000"),
        (123_456.7, "123,457"),
        (2.5e-10, "2.5e−10"),
        (-0.5, "−0.5"),
        (1e12, "1e12"),
        (0.0005, "0.0005"),
        (None, "–"),
    ],
)
def test_numbers_are_short(value, text):
    assert in_node("scale.js", "m.numberText(v)", v=value) == text


@pytest.mark.parametrize(("low", "high"), [(0, 3), (0, 1), (0, 999), (5, 1_000_000)])
def test_ticks_of_steps_are_integers_in_the_range_and_differ(low, high):
    found = in_node("scale.js", "m.stepTicks(a, b, 6)", a=low, b=high)
    assert all(isinstance(tick, int) and low <= tick <= high for tick in found)
    assert len(set(found)) == len(found) >= 2


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (-8, 0, ["1e−8", "1e−6", "0.0001", "0.01", "1"]),
        (0, 1.2, ["1", "2", "5", "10"]),
        (math.log10(2.29), math.log10(2.33), ["2.3", "2.31", "2.32"]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round_values(low, high, texts):
    made = in_node("scale.js", "m.tickTexts(m.valueTicks(a, b, 4, true), true)", a=low, b=high)
    assert [text for text in texts if text in made] == texts


@pytest.mark.parametrize(("low", "high"), [(0.38, 0.95), (2e-6, 9e-6), (-3.0, 9.0), (0.0, 1e-3)])
def test_a_linear_axis_has_two_ticks_at_least(low, high):
    made = in_node("scale.js", "m.valueTicks(a, b, 2, false)", a=low, b=high)
    assert len(made) >= 2
    assert low <= made[0] < made[-1] <= high


def test_neighbouring_ticks_never_have_the_same_text():
    made = in_node(
        "scale.js", "m.tickTexts(m.valueTicks(a, b, 5, false), false)", a=1e4, b=1e4 + 0.3
    )
    assert len(set(made)) == len(made) >= 3


@pytest.mark.parametrize("value", [0, 1e-9, -3.5, 1e30])
def test_a_constant_has_an_axis_around_it(value):
    low, high = in_node("scale.js", "m.withRoom(v, v, false)", v=value)
    assert low <= value <= high
    assert low < high


@pytest.mark.parametrize(("from_zero", "bottom"), [(True, 0.0), (False, 22.094)])
def test_the_axis_of_an_amount_begins_at_zero(from_zero, bottom):
    chart = "{xRange: () => [0, 2], log: false, series: [{points: p}], sent: {fromZero: z}}"
    low, high = in_node(
        "chart.js",
        f"m.Chart.prototype.yRange.call({chart})",
        p=columns(0, 1, 2, values=[22.1, 22.2, 22.15]),
        z=from_zero,
    )
    assert low == pytest.approx(bottom)
    assert high > 22.2
