"""Two to six runs beside each other."""

import pytest

from helpers.fake_runs import FakeRun, healthy_run, healthy_value, hostile_run, vanishing_run
from helpers.sent import charts, codes, table
from trainvitals_dashboard.client import Client, Problem

SETTINGS = "Settings that differ"


def asked(collector, word):
    return [path for path in collector.asked if word in path]


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption, *app.info))


def test_the_runs_of_the_address_are_drawn_over_the_same_steps(open_page, collector):
    collector.runs = [healthy_run(), vanishing_run()]
    app = open_page("compare", run=["resnet-baseline", "sigmoid-deep"])
    loss = charts(app)["compare-loss"]
    assert [line["name"] for line in loss["series"]] == ["resnet-baseline", "sigmoid-deep"]
    assert len(charts(app)) == 4
    assert codes(app) == ["trainvitals compare resnet-baseline sigmoid-deep"]


def test_the_first_step_and_the_first_layer_that_differ_are_found_on_demand(open_page, collector):
    def later(stream, statistic, place, step):
        known = healthy_value(stream, statistic, place, step)
        return known if step < 100 or known is None else 2 * known

    collector.runs = [FakeRun("a"), FakeRun("b", values=later)]
    app = open_page("compare", run=["a", "b"])
    assert not asked(collector, "/heatmap")
    app = app.button[-1].click().run()
    assert not app.exception
    found = {row["quantity"]: row for row in table(app, "First differences")}
    assert found["loss"]["first at step"] == "100"
    [layer] = [row for name, row in found.items() if name.startswith("first layer: ")]
    assert int(layer["first at step"]) >= 100
    assert "learning rate of group 0" in found
    assert float(layer["2: b"]) == pytest.approx(2 * float(layer["1: a"]), rel=1e-6)


def test_of_more_than_two_runs_the_two_that_are_searched_are_named(open_page, collector):
    collector.runs = [FakeRun("a"), FakeRun("b"), FakeRun("c")]
    assert "Of the first two runs, a and b." in words(open_page("compare", run=["a", "b", "c"]))
    assert "Of the first two runs" not in words(open_page("compare", run=["a", "b"]))


def test_runs_with_the_same_values_are_said_not_to_differ(open_page, collector):
    collector.runs = [FakeRun("a"), FakeRun("b")]
    app = open_page("compare", run=["a", "b"])
    assert "do not differ" in words(app.button[-1].click().run())


def test_weights_of_one_run_only_are_named(open_page, collector):
    collector.runs = [FakeRun("a"), FakeRun("b", layers=["encoder.0", "decoder"])]
    said = words(open_page("compare", run=["a", "b"]).button[-1].click().run())
    assert "Weights of a only, not compared: encoder.1.weight, " in said
    assert "Weights of b only, not compared: decoder.weight" in said


def test_a_search_that_fails_is_said(open_page, collector):
    collector.runs = [FakeRun("a"), FakeRun("b")]
    app = open_page("compare", run=["a", "b"])
    collector.down = True
    assert "The search failed" in words(app.button[-1].click().run())


@pytest.mark.parametrize(("other", "log"), [(1e-5, True), (0.02, False), (0.0, False)])
def test_rates_that_differ_by_decades_have_a_logarithmic_axis(open_page, collector, other, log):
    def rates(stream, statistic, place, step):
        known = healthy_value(stream, statistic, place, step)
        return other if place.startswith("learning_rate") else known

    def fixed(stream, statistic, place, step):
        known = healthy_value(stream, statistic, place, step)
        return 0.1 if place.startswith("learning_rate") else known

    collector.runs = [FakeRun("a", values=fixed), FakeRun("b", values=rates)]
    app = open_page("compare", run=["a", "b"])
    assert charts(app)["compare-learning_rate/0"]["log"] is log


def test_the_verdicts_are_a_table(open_page, collector):
    collector.runs = [healthy_run(), vanishing_run()]
    app = open_page("compare", run=["resnet-baseline", "sigmoid-deep"])
    found = table(app, "Verdicts")
    assert [row["run"] for row in found] == ["resnet-baseline", "sigmoid-deep"]
    assert [row["verdict"] for row in found] == ["healthy", "error"]


def test_only_settings_that_differ_are_listed(open_page, collector):
    shared = {"data": {"seed": 1}}
    collector.runs = [
        FakeRun("a", detail={"config": {"lr": 0.1, **shared}}),
        FakeRun("b", detail={"config": {"lr": 0.2, **shared}}),
    ]
    app = open_page("compare", run=["a", "b"])
    [row] = table(app, "Settings that differ")
    assert list(row.values()) == ["lr", "0.1", "0.2"]


def test_optimizers_that_differ_are_listed_with_the_settings(open_page, collector):
    def optimizer(kind, **values):
        attributes = {"optimizer": 0.0, "groups": 1.0} | {f"{n}/0": v for n, v in values.items()}
        event = {
            "step": 0,
            "time": 5.0,
            "kind": "optimizer",
            "text": kind,
            "attributes": attributes,
        }
        return {"events": [event]}

    collector.runs = [
        FakeRun("a", detail=optimizer("SGD", lr=0.1, momentum=0.9)),
        FakeRun("b", detail=optimizer("AdamW", lr=0.001, betas="0.9, 0.999")),
    ]
    found = {row["setting"]: row for row in table(open_page("compare", run=["a", "b"]), SETTINGS)}
    assert list(found["optimizer class"].values())[1:] == ["SGD", "AdamW"]
    assert list(found["optimizer lr at the first step"].values())[1:] == ["0.1", "0.001"]
    assert list(found["optimizer betas"].values())[1:] == ["–", "0.9, 0.999"]
    assert "optimizer groups" not in found


def test_equal_settings_are_said_to_be_equal(open_page, collector):
    collector.runs = [FakeRun("a"), FakeRun("b")]
    assert "are the same" in words(open_page("compare", run=["a", "b"]))


def test_one_run_is_not_enough(open_page, collector):
    collector.runs = [healthy_run()]
    assert "Select two to six runs." in words(open_page("compare", run=["resnet-baseline"]))


def test_a_hostile_name_is_shown_as_text(open_page, collector):
    collector.runs = [hostile_run(), healthy_run()]
    app = open_page("compare", run=[collector.runs[0].id, "resnet-baseline"])
    assert not app.exception


def test_one_request_reads_the_curves_of_a_run(open_page, collector):
    collector.runs = [healthy_run(), FakeRun("b", scalars=("loss",))]
    app = open_page("compare", run=["resnet-baseline", "b"])
    lines = {key: [s["name"] for s in c["series"]] for key, c in charts(app).items()}
    assert lines["compare-loss"] == ["resnet-baseline", "b"]
    assert lines["compare-gradient_norm"] == ["resnet-baseline"]
    assert len(asked(collector, "/series")) == 2


def test_curves_that_cannot_be_read_are_explained_in_their_place(open_page, collector, monkeypatch):
    def fail(*_, **__):
        raise Problem("unreachable", "gone away")

    collector.runs = [FakeRun("a"), FakeRun("b")]
    monkeypatch.setattr(Client, "series", fail)
    app = open_page("compare", run=["a", "b"])
    assert not app.exception
    assert "does not answer" in app.error[0].value
    assert "Settings that differ" in words(app), "the rest of the page is shown"
