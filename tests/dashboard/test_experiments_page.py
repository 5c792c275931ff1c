"""The page of the experiments: the recommendation, curves with bands, the signal, the table."""

import re
from urllib.parse import quote

import pytest

from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_experiment import CHOICES, DEPTH, experiment, experiment_run
from helpers.fake_runs import HOSTILE, healthy_run
from helpers.sent import charts, codes, table


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption, *app.info, *app.warning))


def test_a_winner_is_named_with_the_reason(open_page, collector):
    collector.runs = [experiment_run()]
    shown = words(open_page("experiments"))
    assert "### he\\_normal is the best choice" in shown
    assert "it beats every other choice" in shown
    assert "200 steps, 5 seeds, 4 choices" in shown


def test_without_a_winner_it_says_so(open_page, collector):
    reason = "No proven winner: he_normal has the best accuracy (0.94)."
    collector.runs = [experiment_run(best=None, tied=["he_normal", "zeros"], reason=reason)]
    shown = words(open_page("experiments"))
    assert "### No proven winner" in shown
    assert shown.count("No proven winner") == 1


def test_the_columns_of_the_table_are_explained(open_page, collector):
    collector.runs = [experiment_run()]
    app = open_page("experiments")
    assert "**95 % interval**: over the seeds." in words(app)
    explained = re.findall(r"\*\*(.+?)\*\*: ", words(app))
    assert set(explained) <= set(table(app, "Every choice")[0])


def test_each_choice_has_a_curve_with_the_range_over_the_seeds(open_page, collector):
    collector.runs = [experiment_run()]
    series = charts(open_page("experiments"))["metric-0"]["series"]
    assert [line["name"] for line in series] == list(CHOICES)
    first = series[0]["points"]
    assert len(first["step"]) == 20
    assert all(a < b < c for a, b, c in zip(first["min"], first["mean"], first["max"], strict=True))


def test_more_choices_than_colours_are_spread_over_charts_of_similar_size(open_page, collector):
    one = experiment()["curves"][0]
    seven = [{**one, "choice": f"{rate:g}"} for rate in range(1, 8)]
    collector.runs = [experiment_run(curves=seven)]
    shown = charts(open_page("experiments"))
    assert [len(shown[key]["series"]) for key in ("metric-0", "metric-4")] == [4, 3]
    assert shown["metric-4"]["title"].endswith("(2 of 2)")


def test_the_page_of_its_run_leads_to_the_result(open_page, collector):
    collector.runs = [experiment_run("deep")]
    [link] = [
        e
        for e in open_page("run", run="deep").get("page_link")
        if e.proto.label == "Show the result"
    ]
    assert link.proto.page == "experiments"
    assert "run=deep" in link.proto.query_string


def test_the_page_of_its_run_draws_no_chart(open_page, collector):
    collector.runs = [experiment_run("deep")]
    app = open_page("run", run="deep")
    assert charts(app) == {}
    assert "#### Curves" not in words(app)
    assert "#### About this run" in words(app)


def test_the_signal_is_shown_for_each_choice_and_layer(open_page, collector):
    collector.runs = [experiment_run("deep")]
    app = open_page("experiments")
    rows = {row.pop("choice"): list(row.values()) for row in table(app, "Signal of each layer")}
    assert list(rows) == list(CHOICES)
    assert all(len(cells) == DEPTH for cells in rows.values())
    assert rows["zeros"] == ["0"] * DEPTH
    assert len(charts(app)["signal-deep"]["series"]) == len(CHOICES)


def test_a_network_without_depth_says_why_there_is_no_signal(open_page, collector):
    collector.runs = [experiment_run(signals=[])]
    assert "fewer than two hidden layers" in words(open_page("experiments"))


def test_the_table_is_that_of_the_result(open_page, collector):
    collector.runs = [experiment_run()]
    found = table(open_page("experiments"), "Every choice")
    assert [row["choice"] for row in found] == list(CHOICES)
    assert found[0]["95 % interval"] == "0.93 to 0.95"


def test_columns_in_which_no_choice_has_a_value_are_left_out(open_page, collector):
    header = ("choice", "steps", "ECE", "diagnosis")
    cells = [("zeros", "", "", "symmetric_init " * 20), ("he", "120", "", "")]
    rows = [{"choice": c[0], "cells": c, "learned": False} for c in cells]
    collector.runs = [experiment_run(header=header, rows=rows)]
    zeros, he = table(open_page("experiments"), "Every choice")
    long = ("symmetric_init " * 20).strip()
    assert zeros == {"choice": "zeros", "steps": "", "diagnosis": long}
    assert he == {"choice": "he", "steps": "120", "diagnosis": ""}


def test_the_address_chooses_an_experiment(open_page, collector):
    collector.runs = [experiment_run("new"), experiment_run("old", best=None)]
    assert "No proven winner" in words(open_page("experiments", run="old"))
    assert "is the best choice" in words(open_page("experiments"))


def test_without_an_experiment_it_shows_how_to_send_one(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page("experiments")
    assert "No experiment was sent" in words(app)
    compile(codes(app)[0], "example", "exec")


def test_a_result_that_cannot_be_read_is_said_to_be_one(open_page, collector):
    collector.runs = [experiment_run(rows="?")]
    assert "that this version can read" in words(open_page("experiments"))


def test_the_page_of_the_runs_leads_to_the_experiments(open_page, collector):
    collector.runs = [experiment_run()]
    assert "Experiments" in [e.proto.label for e in open_page().get("page_link")]


def right_of(found):
    """Return the right edge of an element in CSS pixels."""
    box = found.bounding_box()
    return box["x"] + box["width"]


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
def test_in_a_browser_it_has_no_error_and_hostile_names_are_text():
    hostile = experiment_run(HOSTILE, best=HOSTILE, reason=HOSTILE, metric=HOSTILE)
    with (
        fake_collector(experiment_run(), hostile) as fake,
        dashboard(fake.url, TOKEN) as url,
        chromium() as browser,
    ):
        with visit(browser, f"{url}/experiments") as seen:
            for width in (1600, 390):
                if width == 390:
                    seen.on_a_phone()
                seen.page.get_by_text("he_normal is the best choice").wait_for(timeout=60_000)
                seen.page.locator("section[data-key='metric-0'] canvas").first.wait_for()
                across = "document.documentElement.scrollWidth"
                assert seen.page.evaluate(across) <= width
                assert seen.errors == []
                for found in seen.page.locator(".rows table").all():
                    assert right_of(found) <= width
        with visit(browser, f"{url}/experiments?run={quote(HOSTILE)}") as seen:
            assert "<img src=x onerror" in seen.text()
            assert seen.foreign == []
