"""A downloaded report has the chart board, opened from a file without network."""

import json
import re

import numpy as np
import pytest

from helpers.board import drag, hover, plot, said, says
from helpers.chromium import chromium
from helpers.fake_runs import HOSTILE
from trainvitals.api.schema import Curve, Diagnosis
from trainvitals.diagnosis.history import Series
from trainvitals.report import as_html
from trainvitals.wire import Stream
from trainvitals_dashboard.figures.charts import Chart
from trainvitals_dashboard.figures.curves import Line
from trainvitals_dashboard.figures.report import with_board
from trainvitals_dashboard.figures.updates import ChartPlan
from trainvitals_dashboard.parts.board import BUNDLE
from trainvitals_dashboard.parts.downloads import report_with_board

STEPS = list(range(200))
VALUES = [2.0 - 0.005 * step for step in STEPS]
END_OF_SCRIPT = "</script><script>document.title = 'attacked'</script><!--"


def report(name="a run"):
    """The report of the collector, with images of two curves."""
    series = Series(np.array(STEPS), np.array(VALUES))
    curves = {(Stream.SCALAR.value, n, ""): series for n in ("loss", "gradient_norm")}
    return as_html(Diagnosis(run="r", step=STEPS[-1]), curves, name=name)


def plans(name="training"):
    def curve(first, last, points):
        numbers = [*VALUES]
        counts = [1] * len(STEPS)
        found = Curve(name, STEPS, STEPS, numbers, numbers, numbers, numbers, [0] * 200, counts)
        return [Line(name, found)]

    return [
        ChartPlan(Chart(f"curve-{key}", f"{key} {name}", clicks=True), curve)
        for key in ("loss", "gradient_norm")
    ]


def interactive(name="a run"):
    return report_with_board(report(name), plans(name), STEPS[-1])


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page as a file; return it with its errors and its requests of other things."""
    contexts = []

    def open_file(text, **options):
        file = tmp_path / "report.html"
        file.write_text(text, encoding="utf-8")
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        errors, requests = [], []
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        return page, errors, [url for url in requests if url != file.as_uri()]

    yield open_file
    for context in contexts:
        context.close()


def test_the_charts_share_cursor_and_zoom_without_network_and_replace_the_images(opened):
    page, errors, requests = opened(interactive())
    plot(page, "curve-loss")
    assert not page.locator(".plots svg").first.is_visible()
    hover(page, "curve-loss", 0.5)
    says(page, "curve-gradient_norm", r"step (99|100)\b")
    drag(page, "curve-loss", 0.25, 0.5)
    page.mouse.move(0, 0)
    hover(page, "curve-loss", 0.99)
    says(page, "curve-gradient_norm", r"step (98|99|100)\b")
    assert (errors, requests) == ([], [])


def test_the_charts_follow_the_theme_of_the_browser(opened):
    page, errors, _ = opened(interactive(), color_scheme="light")
    plot(page, "curve-loss")
    line = "document.getElementById('board').shadowRoot.querySelector('.board i')"
    colour = f"() => {line}.style.background"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => ({colour})() !== before", arg=light)
    assert errors == []


def test_without_scripts_the_images_are_shown(opened):
    page, _, _ = opened(interactive(), java_script_enabled=False)
    assert page.locator(".plots svg").count() == 2
    assert page.locator(".plots svg").first.is_visible()
    assert page.locator("canvas").count() == 0


@pytest.mark.parametrize("name", [HOSTILE, END_OF_SCRIPT])
def test_hostile_names_are_text(opened, name):
    page, errors, requests = opened(interactive(name))
    label = said(page, "curve-loss")
    assert name.split()[0] in label
    assert page.title() != "attacked"
    assert page.locator("img").count() == 0
    assert (errors, requests) == ([], [])


def test_the_policy_allows_no_other_script(opened):
    page, errors, _ = opened(
        interactive().replace("</body>", "<script>document.title = 'ran'</script></body>")
    )
    plot(page, "curve-loss")
    assert page.title() != "ran"
    assert any("Content Security Policy" in error for error in errors)


def test_the_page_contains_the_points_of_all_steps_and_no_links_to_other_pages():
    [data] = re.findall(
        r'<script type="application/json" id="board-data">(.*?)</script>', interactive()
    )
    message = json.loads(data)
    assert [len(c["series"][0]["points"]["step"]) for c in message["charts"]] == [200, 200]
    assert not any(chart["clicks"] for chart in message["charts"])
    assert "</" not in data


@pytest.mark.parametrize("page", ["<!doctype html><title>x</title>", as_html(Diagnosis(run="r"))])
def test_a_page_without_curves_or_of_another_kind_is_unchanged(page):
    assert with_board(page, {"charts": []}, BUNDLE.read_text()) == page
    assert report_with_board(page, [], 0) == page
