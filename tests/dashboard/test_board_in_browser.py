"""The chart board in a real Chromium: one cursor, one zoom, kept while the run goes on."""

from functools import partial
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from helpers.board import (
    area,
    axis_ends,
    board_messages,
    drag,
    drawn_in,
    header,
    hover,
    pixel,
    plot,
    said,
    says,
)
from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import HOSTILE, healthy_run, hostile_run, spiking_run, vanishing_run
from trainvitals_dashboard.figures.palette import palette

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(240)]
LOSS, NORM, RATE = "curve-loss", "curve-gradient_norm", "curve-learning_rate"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def collector():
    ended = spiking_run(state="finished")
    with fake_collector(vanishing_run(), ended, healthy_run(), hostile_run()) as fake:
        yield fake


@pytest.fixture(scope="module")
def address(collector):
    with dashboard(collector.url, TOKEN) as url:
        yield url


@pytest.fixture(scope="module")
def growing():
    """A collector to which tests add running runs of their own names, and its dashboard."""
    with fake_collector() as fake, dashboard(fake.url, TOKEN, refresh_s=1.0) as url:
        yield fake, url


@pytest.fixture
def live(browser, growing):
    """A running run, a function that opens its page, and the collector."""
    fake, url = growing
    run = spiking_run(f"live-{len(fake.runs)}")
    fake.runs.append(run)
    return run, partial(visit, browser, f"{url}/run?run={run.id}"), fake


@pytest.fixture(scope="module")
def still(browser, address):
    """The page of a run that has ended, for tests that only move the cursor."""
    with visit(browser, f"{address}/run?run=gpt-small") as seen:
        yield seen


def query_of(page):
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        (1600, False),
        (390, True),
        pytest.param(1600, True, marks=pytest.mark.slow),
        pytest.param(390, False, marks=pytest.mark.slow),
    ],
)
def test_every_chart_is_drawn_without_an_error_within_the_page(browser, address, width, dark):
    with visit(browser, f"{address}/run?run=gpt-small", width=width, dark=dark) as seen:
        for chart in ("proof-TV503", LOSS, NORM, RATE):
            box = area(seen.page, chart)
            assert box["x"] >= 0
            assert 0.5 * min(width, 700) < box["width"] <= width - box["x"]
            assert said(seen.page, chart).count("step 400") == 1
        assert seen.errors == []
        assert seen.page.locator("iframe").count() == 0


def test_all_charts_have_one_cursor_and_say_the_step_and_the_values_there(still):
    hover(still.page, LOSS, 0.25)
    step = header(still.page, LOSS).split("step ")[1].split("\n")[0]
    assert step == "100"
    for chart in (NORM, RATE, "proof-TV503"):
        assert f"step {step}" in header(still.page, chart)
    assert "training" in said(still.page, LOSS)
    assert "validation" in said(still.page, LOSS)


def test_the_cursor_sends_nothing_to_the_server(browser, address):
    sent = []

    def listen(page):
        page.on("websocket", lambda ws: ws.on("framesent", lambda frame: sent.append(frame)))

    with visit(browser, f"{address}/run?run=gpt-small", listen=listen) as seen:
        plot(seen.page, LOSS)
        seen.page.wait_for_timeout(1_000)
        assert sent, "the frames of the page are not seen"
        sent.clear()
        for i in range(30):
            hover(seen.page, LOSS, 0.1 + 0.02 * i)
        assert "step" in header(seen.page, NORM)
        assert sent == []


def test_numbers_are_short(still):
    for chart in (LOSS, NORM, RATE):
        longest = max(said(still.page, chart).split(), key=len)
        assert len(longest.strip(".,()")) <= 10, longest


def test_a_dragged_range_is_requested_anew_stands_in_the_address_and_holds_for_all_charts(
    browser, address, collector
):
    with visit(browser, f"{address}/run?run=resnet-baseline") as seen:
        drag(seen.page, LOSS, 0.4, 0.6)
        seen.page.wait_for_url("**from_step=*", timeout=60_000)
        seen.page.get_by_role("button", name="All steps").wait_for(timeout=60_000)
        seen.settle()
        query = query_of(seen.page)
        first, last = int(query["from_step"]), int(query["to_step"])
        assert 155 <= first <= 165
        assert 235 <= last <= 245
        assert any(f"from_step={first}&to_step={last}" in asked for asked in collector.asked)
        for chart in (LOSS, NORM, RATE):
            assert axis_ends(seen.page, chart) == pytest.approx((first, last), abs=1)
        # The end of a drag is not a click on a point.
        assert seen.page.get_by_role("link", name="Layers around").count() == 0
        plot(seen.page, NORM).dblclick()
        seen.page.wait_for_url(lambda url: "from_step" not in url, timeout=60_000)
        seen.settle()
        assert axis_ends(seen.page, LOSS) == pytest.approx((0, 400), abs=1)


@pytest.mark.slow  # an address with a range is opened in the test of the smoothing
def test_a_shared_address_opens_with_its_range(browser, address):
    path = "/run?run=resnet-baseline&from_step=100&to_step=200"
    with visit(browser, address + path, width=390, dark=True) as seen:
        assert axis_ends(seen.page, RATE) == (100, 200)


def test_the_keyboard_moves_the_cursor_zooms_and_changes_the_scale(browser, address):
    with visit(browser, f"{address}/run?run=resnet-baseline") as seen:
        chart = plot(seen.page, LOSS)
        chart.focus()
        chart.press("Home")
        for _ in range(3):
            chart.press("ArrowRight")
        assert "step 3:" in said(seen.page, LOSS)
        assert "step 3" in header(seen.page, RATE)
        scale = seen.page.locator(f"section[data-key='{LOSS}'] button.scale")
        before = scale.inner_text()
        chart.press("l")
        assert {before, scale.inner_text()} == {"log", "linear"}
        chart.press("+")
        seen.page.wait_for_url("**to_step=*", timeout=60_000)
        assert query_of(seen.page)["from_step"] in ("1", "2")


def test_lost_steps_and_values_that_are_not_finite_are_drawn_apart(still):
    measured = pixel(still.page, LOSS, 50 / 400)
    lost = pixel(still.page, LOSS, 165 / 400)
    infinite = pixel(still.page, LOSS, 300 / 400)
    assert measured[3] == 0
    assert lost[3] > 0
    assert max(lost[:3]) - min(lost[:3]) < 60
    assert infinite[0] > 2 * infinite[1]
    hover(still.page, LOSS, 300 / 400)
    assert "training not finite" in said(still.page, LOSS)


def test_a_range_is_kept_over_many_redrawings_and_smoothing_changes_the_line_only(browser, address):
    path = "/run?run=resnet-baseline&from_step=100&to_step=200"
    with visit(browser, address + path) as seen:
        hover(seen.page, NORM, 0.5)
        values = header(seen.page, NORM)
        select = seen.page.get_by_label("Smoothing")
        for _ in range(5):
            for choice in ("light smoothing", "strong smoothing", "no smoothing"):
                select.select_option(label=choice)
        select.select_option(label="strong smoothing")
        hover(seen.page, NORM, 0.5)
        assert header(seen.page, NORM) == values
        assert axis_ends(seen.page, LOSS) == (100, 200)


def test_the_charts_follow_the_theme_of_the_page_while_it_is_open(browser, address):
    light, dark = (palette(is_dark).line[0] for is_dark in (False, True))
    with visit(browser, f"{address}/run?run=resnet-baseline") as seen:
        assert drawn_in(seen.page, NORM, light) > 20
        seen.page.emulate_media(color_scheme="dark")
        seen.page.wait_for_timeout(1_500)
        assert drawn_in(seen.page, NORM, dark) > 20
        assert drawn_in(seen.page, NORM, light) == 0


def test_a_clicked_step_has_a_link_to_the_layers_around_it(browser, address):
    with visit(browser, f"{address}/run?run=resnet-baseline") as seen:
        hover(seen.page, NORM, 0.5)
        seen.page.mouse.down()
        seen.page.mouse.up()
        link = seen.page.get_by_role("link", name="Layers around step 200")
        link.wait_for(timeout=60_000)
        link.click(timeout=60_000)
        seen.page.wait_for_url("**/layers?*", timeout=60_000)
        query = query_of(seen.page)
        assert (query["from_step"], query["to_step"]) == ("150", "250")


def test_runs_are_compared_on_one_board_with_one_cursor(browser, address):
    path = "/compare?run=sigmoid-deep&run=resnet-baseline"
    with visit(browser, address + path, width=390, dark=True) as seen:
        for chart in ("compare-loss", "compare-gradient_norm"):
            plot(seen.page, chart)
            hover(seen.page, "compare-loss", 0.4)
            hover(seen.page, "compare-loss", 0.5)
            says(seen.page, chart, "step 200: sigmoid-deep .*, resnet-baseline ")


def test_the_values_of_a_layer_are_said_by_its_name(browser, address):
    with visit(browser, f"{address}/initialisation?run=sigmoid-deep", width=390) as seen:
        plot(seen.page, "signal").press("Home")
        assert ". encoder.0: S, across samples 1, M, across units 0.1." in said(seen.page, "signal")


@pytest.mark.slow  # the size of an update is measured in test_heat_map_in_browser.py
def test_live_points_are_appended_in_small_messages(live):
    run, opened, _ = live
    frames = []

    def listen(page):
        page.on("websocket", lambda ws: ws.on("framereceived", lambda f: frames.append(f)))

    with opened(listen=listen) as seen:
        plot(seen.page, LOSS)
        sizes = []
        for step in (700, 1_000, 1_300):
            frames.clear()
            run.step = step
            seen.page.get_by_text(f"step {step:,} of 2,000", exact=False).first.wait_for()
            seen.page.wait_for_function(
                "([key, text]) => [...document.querySelectorAll('*')].some(e => e.shadowRoot"
                "?.querySelector(`section[data-key='${key}'] header`)?.textContent.includes(text))",
                arg=[LOSS, f"{step:,}"],
                timeout=60_000,
            )
            news = board_messages([f for f in frames if isinstance(f, bytes)])
            assert news
            assert all(message["base"] is not None for message in news)
            sizes += [len(str(message)) for message in news]
        assert max(sizes) <= 4096
        assert axis_ends(seen.page, LOSS) == pytest.approx((0, 1_300), abs=10)


def test_the_curve_of_a_finding_goes_on_with_the_run_too(live):
    run, opened, _ = live
    with opened() as seen:
        plot(seen.page, "proof-TV503")
        assert "700" not in header(seen.page, "proof-TV503")
        run.step = 700
        seen.page.wait_for_function(
            "() => [...document.querySelectorAll('*')].some(e => e.shadowRoot"
            "?.querySelector(\"section[data-key^='proof'] header\")"
            "?.textContent.includes('to 700'))",
            timeout=30_000,
        )


def test_a_range_that_ends_at_the_latest_step_goes_on_and_another_one_stays(live):
    run, opened, fake = live
    with opened() as seen:
        drag(seen.page, LOSS, 0.5, 0.9999)
        seen.page.wait_for_url("**from_step=*", timeout=60_000)
        seen.settle()
        assert "to_step" not in query_of(seen.page)
        first = int(query_of(seen.page)["from_step"])
        run.step = 800
        seen.page.get_by_text("step 800 of 2,000", exact=False).first.wait_for(timeout=60_000)
        seen.page.wait_for_timeout(500)
        assert axis_ends(seen.page, LOSS) == pytest.approx((first, 800), abs=5)
        drag(seen.page, LOSS, 0.2, 0.4)
        seen.page.wait_for_url("**to_step=*", timeout=60_000)
        seen.settle()
        seen.page.wait_for_timeout(1_000)
        asked = len(fake.asked)
        run.step = 900
        seen.page.wait_for_timeout(2_500)  # two refreshes
        assert len(fake.asked) == asked


def test_hostile_names_are_text(browser, address):
    with visit(browser, f"{address}/run?run={quote(HOSTILE)}") as seen:
        plot(seen.page, LOSS)
        made = seen.page.evaluate(
            "[...document.querySelectorAll('*')].filter(e => e.shadowRoot)"
            ".flatMap(e => [...e.shadowRoot.querySelectorAll('img, a, script, iframe')]).length"
        )
        assert made == 0
        assert seen.foreign == []
