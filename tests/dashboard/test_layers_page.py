"""Layers over steps: where in the network it happens."""

import json

from helpers.fake_runs import (
    DEAD,
    FakeRun,
    healthy_run,
    hostile_run,
    vanishing_run,
)


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption))


def charts(app):
    return {e.proto.id: json.loads(e.proto.spec) for e in app.get("echarts_chart")}


def titles(app):
    """Return the titles of the charts of the selected tensor."""
    messages = [json.loads(e.proto.json or e.proto.mixed.json) for e in app.get("bidi_component")]
    return [chart["title"] for message in messages for chart in message["charts"]]


def heat_map(app):
    [found] = [option for key, option in charts(app).items() if "-heat-" in key]
    return found


def test_gradients_come_first_ordered_by_depth(open_page, collector):
    collector.runs = [vanishing_run()]
    app = open_page("layers", run="sigmoid-deep")
    labels = heat_map(app)["yAxis"]["data"]
    assert labels[0] == "encoder.0.weight"
    assert labels[-1] == "encoder.11.bias"
    assert heat_map(app)["yAxis"]["inverse"] is True
    assert "logarithmic colour scale" in words(app)


def test_a_finding_marks_its_layer(open_page, collector):
    collector.runs = [vanishing_run()]
    app = open_page("layers", run="sigmoid-deep")
    labels = heat_map(app)["yAxis"]["data"]
    assert [label for label in labels if "✖" in label] == ["✖ encoder.4.weight"]
    assert "**TV101 vanishing gradient** at `encoder.4.weight`" in words(app)


def test_a_module_in_trouble_marks_its_tensors(open_page, collector):
    collector.runs = [FakeRun("dead", findings=[DEAD])]
    labels = heat_map(open_page("layers", run="dead"))["yAxis"]["data"]
    assert [x for x in labels if "▲" in x] == ["▲ encoder.7.weight", "▲ encoder.7.bias"]


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
    [path] = [p for p in collector.asked if "/heatmap" in p]
    for part in ("stream=weight", "statistic=drift_rms", "from_step=50", "to_step=150"):
        assert part in path
    shown = words(app)
    assert "`encoder.3.bias` · bias · 64" in shown
    assert "Drift from the initial value (RMS)" in titles(app)


def test_a_tensor_has_weight_gradient_and_update(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page("layers", run="resnet-baseline", place="encoder.3.weight")
    assert titles(app)[:3] == ["Weight (L2)", "Gradient (L2)", "Update: RMS(ΔW) / RMS(W)"]


def test_a_chosen_statistic_is_written_into_the_address(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page("layers", run="resnet-baseline")
    app = app.selectbox(key="statistic-gradient").set_value("std").run()
    assert "std" in app.query_params["statistic"]
    assert "statistic=std" in [p for p in collector.asked if "/heatmap" in p][-1]


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
