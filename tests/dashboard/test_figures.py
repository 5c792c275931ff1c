"""Figures show the data: limits, layers, zeros."""

from trainvitals.api.schema import Evidence, Finding, Heatmap, Place
from trainvitals_dashboard.figures import evidence
from trainvitals_dashboard.figures.charts import Chart, over_layers
from trainvitals_dashboard.figures.curves import rounded
from trainvitals_dashboard.figures.depth import endings, newest_by_place, per_entry


def finding(**fields) -> Finding:
    base = {"rule": "r", "code": "TV1", "severity": "error", "since_step": 3, "summary": ""}
    return Finding(**{**base, **fields})


def test_a_large_integer_keeps_all_its_digits():
    assert rounded(123_456_789.0) == 123_456_789.0


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


def test_norms_are_compared_per_entry():
    places = {"a": Place("a", shape=[10, 10]), "b": Place("b", shape=[10])}
    assert per_entry({"a": 5.0, "b": 5.0}, places) == {"a": 0.5}


def test_the_newest_known_value_of_each_layer_counts():
    grid = Heatmap("g", "l2", ["a", "b"], [0, 1], [[1.0, None], [None, None]])
    assert newest_by_place(grid) == {"a": 1.0}


def test_the_axis_of_a_chart_over_layers_has_the_ends_in_which_the_names_differ():
    layers = ["embed", "encoder.layers.0.linear1", "encoder.layers.0.linear2"]
    layers += [
        "encoder.layers.1.linear1",
        "encoder.layers.1.linear2",
        "a.very.long_name_of_one_head",
    ]
    part = over_layers(Chart("depth", "RMS"), {"rms": dict.fromkeys(layers, 1.0)})
    assert part["layers"] == layers
    ends = ["embed", "0.linear1", "0.linear2", "1.linear1", "1.linear2", "long_name…f_one_head"]
    assert part["labels"] == ends


def test_a_name_that_has_no_ending_of_its_own_is_kept_whole():
    assert endings(["linear", "head.linear", "x.0", "x.0"]) == [
        "linear",
        "head.linear",
        "x.0",
        "x.0",
    ]
    assert endings([]) == []
