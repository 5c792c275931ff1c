"""Layers over steps: where in the network it happens."""

import base64

import numpy as np
import pytest

from helpers.fake_runs import (
    DEAD,
    FakeRun,
    healthy_run,
    healthy_value,
    hostile_run,
    vanishing_run,
)
from helpers.sent import charts


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption))


def titles(app):
    """Return the titles of the charts of the selected tensor."""
    return [chart["title"] for chart in charts(app).values() if chart.get("kind") != "heat"]


def heat_map(app):
    [found] = [chart for chart in charts(app).values() if chart.get("kind") == "heat"]
    return found


def marked(app):
    """Return name → severity of the marked rows of the heat-map."""

    def walk(rows, path):
        for name, sign, *inside in rows:
            if sign:
                yield path + name, sign
            for part in inside:
                yield from walk(part, f"{path}{name}.")

    return dict(walk(heat_map(app)["rows"], ""))


def test_gradients_come_first_ordered_by_depth_in_their_module(open_page, collector):
    collector.runs = [vanishing_run()]
    heat = heat_map(open_page("layers", run="sigmoid-deep"))
    assert heat["title"] == "gradient L2 norm"
    [(name, _, rows)] = heat["rows"]
    assert name == "encoder"
    assert [row[0] for row in rows] == [f"{i}.{k}" for i in range(12) for k in ("weight", "bias")]
    assert heat["log"] is True


def test_a_finding_marks_its_tensor_and_the_module_around_it(open_page, collector):
    collector.runs = [vanishing_run()]
    app = open_page("layers", run="sigmoid-deep")
    assert marked(app) == {"encoder": "error", "encoder.4.weight": "error"}
    assert "**TV101 vanishing gradient** at `encoder.4.weight`" in words(app)


def test_a_module_in_trouble_marks_its_tensors(open_page, collector):
    collector.runs = [FakeRun("dead", findings=[DEAD])]
    found = marked(open_page("layers", run="dead"))
    assert set(found) == {"encoder", "encoder.7.weight", "encoder.7.bias"}
    assert set(found.values()) == {"warning"}


def test_a_tensor_with_nan_is_not_finite_in_every_statistic(open_page, collector):
    def values(stream, statistic, name, step):
        if statistic == "nonfinite":
            return 3.0 if name == "encoder.3.weight" and step >= 300 else 0.0
        return healthy_value(stream, statistic, name, step)

    collector.runs = [FakeRun("nan", values=values)]
    points = heat_map(open_page("layers", run="nan"))["points"]
    cells = np.frombuffer(base64.b64decode(points["cells"]), "<f4")
    rows = dict(zip(points["ids"], cells.reshape(len(points["ids"]), -1), strict=True))
    at = np.array(points["steps"]) >= 300
    np.testing.assert_array_equal(np.isinf(rows["p6"]), at)
    np.testing.assert_array_equal(np.isinf(rows["g0"]), at)
    assert np.isfinite(rows["p7"]).all()


def test_a_tensor_shows_its_initialiser_and_its_findings(open_page, collector):
    collector.runs = [vanishing_run()]
    shown = words(open_page("layers", run="sigmoid-deep", place="encoder.4.weight"))
    assert "Initialiser: he\\_normal \\(gain 1\\.41\\)" in shown
    assert shown.count("TV101 vanishing gradient") == 2
    other = words(open_page("layers", run="sigmoid-deep", place="encoder.5.bias"))
    assert "No finding concerns it." in other
    assert "The initialiser was not identified." in other


def test_a_weight_has_the_drift_of_its_layers_bias_beside_it(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page("layers", run="resnet-baseline", place="encoder.3.weight")
    assert "Drift of the layer's bias (RMS)" in titles(app)
    assert any("place=encoder.3.bias" in p for p in collector.asked if "/series" in p)


def test_the_address_chooses_stream_statistic_steps_and_tensor(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page(
        "layers",
        run="resnet-baseline",
        stream="weight",
        statistic="drift_rms",
        place="encoder.3.bias",
        from_step="50",
        to_step="150",
    )
    path = next(p for p in collector.asked if "/heatmap" in p)
    for part in ("stream=weight", "statistic=drift_rms", "from_step=50", "to_step=150"):
        assert part in path
    shown = words(app)
    assert "`encoder.3.bias` · bias · 64" in shown
    assert "Drift from the initial value (RMS)" in titles(app)


def test_a_tensor_has_weight_gradient_and_update(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page("layers", run="resnet-baseline", place="encoder.3.weight")
    assert titles(app)[:3] == ["Weight (L2)", "Gradient (L2)", "Update: RMS(ΔW) / RMS(W)"]


@pytest.mark.parametrize("stream", ["weight", "gradient"])
def test_the_distribution_of_the_entries_is_drawn_as_two_filled_charts(
    open_page, collector, stream
):
    collector.runs = [healthy_run()]
    drawn = charts(open_page("layers", run="resnet-baseline", place="encoder.3.weight"))
    percentiles, extremes = (drawn[f"detail-{stream}-{key}"] for key in ("magnitude_p95", "max"))
    assert percentiles["title"].endswith(": percentiles of |x|, x ≠ 0")
    assert [s["name"] for s in percentiles["series"]] == ["95 %", "median", "5 %"]
    assert [s["name"] for s in extremes["series"]] == ["largest", "mean", "smallest"]
    high, middle, low = (s["points"]["mean"][0] for s in percentiles["series"])
    assert high > middle > low > 0 > extremes["series"][2]["points"]["mean"][0]
    assert percentiles["filled"]
    assert extremes["filled"]
    assert not drawn[f"detail-{stream}-l2"]["filled"]


def test_no_two_curves_of_a_chart_have_one_key_by_which_live_points_are_added(open_page, collector):
    collector.runs = [healthy_run()]
    drawn = charts(open_page("layers", run="resnet-baseline", place="encoder.3.weight"))
    for key, chart in drawn.items():
        places = [series["place"] for series in chart.get("series", ())]
        assert len(places) == len(set(places)), key


def test_a_chosen_statistic_is_written_into_the_address(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page("layers", run="resnet-baseline")
    app = app.selectbox(key="statistic-gradient").set_value("std").run()
    assert "std" in app.query_params["statistic"]
    assert any("statistic=std" in p for p in collector.asked if "/heatmap" in p)
    assert heat_map(app)["title"] == "gradient spread (std)"


def test_another_stream_starts_with_its_usual_statistic(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page("layers", run="resnet-baseline", stream="update")
    assert app.selectbox(key="statistic-update").value == "ratio"


def test_a_run_without_layers_says_so(open_page, collector):
    collector.runs = [healthy_run(layers=[])]
    assert "No layer was measured" in open_page("layers", run="resnet-baseline").info[0].value


def test_hostile_names_stay_text(open_page, collector):
    run = hostile_run()
    collector.runs = [run]
    app = open_page("layers", run=run.id, place=f"{run.layers[0]}.weight")
    for shown in (e.value for e in (*app.markdown, *app.caption)):
        outside_code = "".join(shown.split("`")[::2])
        assert "<img" not in outside_code.replace("\\<", "")
        assert "](" not in outside_code
        assert "http://" not in outside_code
