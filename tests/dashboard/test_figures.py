"""Figures show what the data says: spikes, gaps, limits, zeros."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from trainvitals.api.schema import Curve, Dropped, Evidence, Finding, Heatmap, Place
from trainvitals_dashboard.figures import evidence
from trainvitals_dashboard.figures.curves import Line, Marks, StepRange, curves, gaps, rounded
from trainvitals_dashboard.figures.depth import newest_by_place, per_entry, through_depth
from trainvitals_dashboard.figures.heat import ROWS_MAX, heat
from trainvitals_dashboard.figures.spark import sparkline


def curve(*steps: int, values=None, width: int = 1) -> Curve:
    values = values or [1.0 + 0.1 * i for i in range(len(steps))]
    numbers = [v if v is not None and math.isfinite(v) else None for v in values]
    return Curve(
        "loss",
        list(steps),
        [s + width - 1 for s in steps],
        numbers,
        numbers,
        numbers,
        numbers,
        [int(v is not None and math.isinf(v)) for v in values],
        [width] * len(steps),
    )


def finding(**fields) -> Finding:
    base = {"rule": "r", "code": "TV1", "severity": "error", "since_step": 3, "summary": ""}
    return Finding(**{**base, **fields})


def drawn(option, name: str):
    return next(s for s in option["series"] if s["name"] == name)["data"]


@given(st.integers(0, 99), st.floats(10, 1e30))
def test_a_spike_of_one_step_is_drawn_at_its_full_height(at, height):
    low, mean, high = [1.0] * 100, [1.0] * 100, [1.0] * 100
    high[at], mean[at] = height, 1 + height / 1000
    steps = list(range(0, 100_000, 1000))
    ends = [s + 999 for s in steps]
    spiky = Curve("loss", steps, ends, low, mean, high, mean, [0] * 100, [1000] * 100)
    option = curves([Line("loss", spiky)], dark=False)
    shown = [point[1] for point in drawn(option, "loss (min to max)") if point[1] is not None]
    axis = option["yAxis"]
    exact = rounded(height)
    lifted = math.log10(exact) if "formatter" in axis.get("axisLabel", {}) else exact
    assert max(shown) == lifted


def test_a_float32_value_is_drawn_with_its_own_digits_only():
    constant = curve(0, 1, 2, values=[0.009999999776482582] * 3, width=2)
    option = curves([Line("learning rate", constant)], dark=False)
    assert [value for _, value in drawn(option, "learning rate")] == [0.01] * 3
    band = drawn(option, "learning rate (min to max)")
    assert {value for _, value in band} == {0.01, None}


def test_a_large_integer_keeps_all_its_digits():
    assert rounded(123_456_789.0) == 123_456_789.0


def test_a_dropped_interval_is_a_hole_with_its_reason():
    lost = Dropped(4, 6, "scalar", "queue_full", 3)
    holed = curve(0, 1, 2, 3, 7, 8, 9)
    option = curves([Line("loss", holed)], dark=False, marks=Marks(dropped=[lost]))
    assert [7, None] in drawn(option, "loss")
    [[start, _]] = option["series"][0]["markArea"]["data"]
    assert start == {"xAxis": 4, "name": "lost: queue full"}


def test_an_unexplained_hole_is_a_hole_too():
    assert gaps(curve(0, 1, 2, 3, 500, 501, 502)) == {4}


def test_a_change_of_cadence_is_no_hole():
    assert gaps(curve(*range(64), *range(64, 1000, 40))) == set()


def test_what_has_no_number_gets_a_mark_of_its_own():
    option = curves([Line("loss", curve(0, 1, 2, values=[1.0, math.inf, 2.0]))], dark=False)
    assert [point[0] for point in drawn(option, "loss is not finite")] == [1]


def test_a_finding_stands_at_its_first_step_in_its_shape():
    option = curves([Line("loss", curve(*range(10)))], dark=False, marks=Marks([finding()]))
    [mark] = option["series"][0]["markLine"]["data"]
    assert (mark["xAxis"], mark["name"]) == (3, "✖ TV1")


def test_findings_that_begin_together_share_a_mark():
    both = [finding(), finding(code="TV2", severity="info", since_step=4)]
    option = curves([Line("loss", curve(*range(0, 1000, 10)))], dark=False, marks=Marks(both))
    assert [m["name"] for m in option["series"][0]["markLine"]["data"]] == ["✖ TV1 TV2"]


def test_a_finding_outside_the_window_is_not_drawn():
    option = curves(
        [Line("loss", curve(*range(10, 20)))],
        dark=False,
        marks=Marks([finding()]),
        window=StepRange(10, 20),
    )
    assert "markLine" not in option["series"][0]


def test_a_limit_is_in_the_picture():
    option = curves(
        [Line("share", curve(0, 1, values=[0.1, 0.2]))], dark=False, marks=Marks(threshold=0.9)
    )
    assert option["yAxis"]["min"] <= 0.1
    assert option["yAxis"]["max"] > 0.9


def test_tiny_numbers_are_told_by_their_exponent():
    option = curves([Line("g", curve(0, 1, 2, values=[1e-9, 2e-9, 3e-9]))], dark=False)
    assert option["yAxis"]["axisLabel"]["formatter"] == "{value}e-9"
    assert [point[2] for point in drawn(option, "g")] == ["1e−9", "2e−9", "3e−9"]


# The first example loads pandas.
@settings(deadline=None, max_examples=300)
@given(st.lists(st.none() | st.floats(width=32), max_size=30))
def test_no_numbers_at_all_break_a_figure(values):
    numbers = [v if v is None or math.isfinite(v) else None for v in values]
    option = curves([Line("x", curve(*range(len(values)), values=numbers or None))], dark=True)
    assert option["series"]
    assert sparkline(numbers, dark=True)["series"]
    grid = Heatmap("weight", "mean", ["a"], list(range(len(numbers))), [numbers])
    assert heat(grid, dark=True).height >= 180


def test_the_limit_of_another_quantity_is_not_drawn():
    ratio = Evidence(quantity="gradient ratio", seen=1e-5, limit=1e-4, direction="below")
    share = Evidence(
        quantity="share of dead units",
        seen=0.9,
        limit=0.5,
        direction="above",
        unit="share",
        statistic="dead_share",
    )
    other = finding(stream="gradient", statistic="l2", evidence=(ratio,))
    same = finding(stream="activation", statistic="dead_share", evidence=(share,))
    assert evidence.threshold(other) is None
    assert evidence.threshold(same) == (0.5, "reported above 50 %")


def test_a_scalars_curve_is_found_by_its_name():
    wanted = evidence.wanted(finding(stream="scalar", statistic="loss"))
    assert wanted == evidence.Wanted("scalar", "value", "loss")


def test_a_heat_map_of_decades_takes_logarithms_and_keeps_zeros_visible():
    figure = heat(Heatmap("g", "l2", ["a", "b"], [0, 1], [[1e-8, 1.0], [0.0, None]]), dark=False)
    frame = figure.option["dataset"]["source"]
    assert figure.scale == "log"
    assert frame["colour"].tolist() == [-8.0, 0.0, -9.0]
    assert figure.cells == ["a", "a", "b"]


def test_a_heat_map_of_both_signs_is_centred_on_zero():
    figure = heat(Heatmap("w", "mean", ["a"], [0, 1], [[-1.0, 3.0]]), dark=False)
    assert (figure.option["visualMap"]["min"], figure.option["visualMap"]["max"]) == (-3.0, 3.0)


def test_a_very_deep_network_says_how_much_is_left_out():
    places = [f"p{i}" for i in range(ROWS_MAX + 7)]
    figure = heat(Heatmap("w", "l2", places, [0], [[1.0]] * len(places)), dark=False)
    assert figure.left_out == 7


def test_norms_are_compared_per_entry():
    places = {"a": Place("a", shape=[10, 10]), "b": Place("b", shape=[10])}
    assert per_entry({"a": 5.0, "b": 5.0}, places) == {"a": 0.5}


def test_the_newest_known_value_of_each_layer_counts():
    grid = Heatmap("g", "l2", ["a", "b"], [0, 1], [[1.0, None], [None, None]])
    assert newest_by_place(grid) == {"a": 1.0}


def test_the_layer_of_the_finding_is_marked():
    option = through_depth({"S": {"a": 1e-9, "b": 1e-3, "c": 1.0}}, dark=False, here="b")
    assert drawn(option, "found here") == [[1, -3.0, "b", "0.001"]]
