"""The heat-map in a real Chromium: any number of tensors, only the visible ones are sent."""

import json
import re
import time
from functools import cache, partial
from itertools import product
from urllib.parse import parse_qs, urlsplit

import pytest

from helpers.board import board_messages, drawn_in, header, hover, part_sizes, plot, said, updates
from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import VANISHING, FakeRun, healthy_run, healthy_value, spiking_run
from trainvitals_dashboard.figures.palette import palette
from trainvitals_dashboard.figures.tree import tree_of

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(240)]
PARTS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.gate", "mlp.down")
MEAN = 2
"""The column of the means in a live update, as in dashboard/board/src/points.js."""
ROW = 18
"""Height of a row in CSS pixels, as in dashboard/board/src/heatdraw.js."""
FRAME_MS_MAX = 250
"""Generous: the machine of the tests may be slow."""
SCROLL = """async (e) => {
  const gaps = [];
  let before = performance.now();
  for (let i = 0; i < 60; i += 1) {
    e.scrollTop = (e.scrollHeight * i) / 60;
    await new Promise(requestAnimationFrame);
    gaps.push(performance.now() - before);
    before = performance.now();
  }
  return gaps.sort((a, b) => a - b)[Math.floor(gaps.length * 0.9)];
}"""
"""Scrolls through all rows in 60 steps; returns the 90th percentile of the frame times in ms."""


def value(stream, statistic, name, step):
    """Later layers have smaller gradients; 11 steps are missing; one layer of h.2 ends in NaN."""
    if stream == "scalar":
        return healthy_value(stream, statistic, name, step)
    if 150 <= step <= 160:
        return None
    if statistic == "nonfinite":
        return 3.0 if step >= 380 and name.startswith("h.2.attn.q") else 0.0
    # Without `noise`: 2,000 tensors at 200 steps would take longer than the client waits.
    return size_of(name) * (1 + step % 7 / 20)


@cache
def size_of(name):
    layer = int(name.split(".")[1]) if name.startswith("h.") else 0
    return 10 ** (-layer / 10)


def names(tensors):
    layers = (f"h.{i // 7}.{PARTS[i % 7]}" for i in range(tensors // 2))
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def transformer(tensors):
    """A run with a number of tensors: blocks of seven linear layers, each with weight and bias."""
    layers = [f"h.{i // 7}.{PARTS[i % 7]}" for i in range(tensors // 2)]
    return FakeRun(f"with-{tensors}", layers=layers, values=value, findings=[VANISHING], step=400)


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def collector():
    with fake_collector(transformer(304), transformer(2_000), healthy_run()) as fake:
        yield fake


@pytest.fixture(scope="module")
def address(collector):
    with dashboard(collector.url, TOKEN) as url:
        yield url


def heat(page):
    """Return the heat-map, scrolled into view, once it has cells."""
    found = plot(page, "heat")
    page.wait_for_function(
        "() => [...document.querySelectorAll('*')].some(e => e.shadowRoot"
        "?.querySelector(\"section[data-key='heat'] header .where\"))"
    )
    found.evaluate("e => e.scrollIntoView({ block: 'center' })")
    return found


def click_row(page, index):
    box = heat(page).bounding_box()
    page.mouse.click(box["x"] + 40, box["y"] + (index + 0.5) * ROW)


@pytest.mark.parametrize(
    ("tensors", "width", "dark"),
    [
        (304, 1600, True),
        (2_000, 390, False),
        *(
            pytest.param(tensors, width, dark, marks=pytest.mark.slow)
            for tensors, width, dark in product((304, 2_000), (1600, 390), (False, True))
            if (tensors, width, dark) not in ((304, 1600, True), (2_000, 390, False))
        ),
    ],
)
def test_all_tensors_have_a_row_within_the_page(browser, address, tensors, width, dark):
    path = f"{address}/layers?run=with-{tensors}"
    with visit(browser, path, width=width, dark=dark) as seen:
        box = heat(seen.page).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert f"{tensors:,} tensors" in said(seen.page, "heat")
        axis = seen.page.locator("section[data-key='heat'] canvas.axis").bounding_box()
        assert axis["y"] + axis["height"] <= box["y"] + 460
        assert drawn_in(seen.page, "heat", palette(dark).severity["error"]) > 20
        seen.page.get_by_role("button", name="Open all").click()
        height = heat(seen.page).evaluate("e => e.scrollHeight")
        assert height == (tensors + len(tree_of(names(tensors)).groups)) * ROW
        assert seen.errors == []
        across = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert seen.page.evaluate(across)


def test_only_the_visible_tensors_are_requested(browser, address, collector):
    with visit(browser, f"{address}/layers?run=with-2000") as seen:
        heat(seen.page)
        seen.page.wait_for_timeout(500)
        collector.asked.clear()
        click_row(seen.page, 2)
        click_row(seen.page, 3)
        row = heat(seen.page)
        for _ in range(3):
            row.press("ArrowDown")
        seen.page.wait_for_function(
            "() => [...document.querySelectorAll('*')].some(e => e.shadowRoot"
            "?.querySelector(\"section[data-key='heat'] header b\")?.textContent.match(/[0-9]/))"
        )
        asked = [parse_qs(urlsplit(p).query) for p in collector.asked if "/heatmap" in p]
        assert asked
        found = {place for query in asked for place in query["place"] if place != "h."}
        assert {f"h.1.attn.{part}.bias" for part in "qkvo"} < found
        assert all(place[:4] == "h.1." or place[-1] == "." for place in found), found


def test_the_rows_at_the_end_are_reached_by_scrolling_and_get_their_values(browser, address):
    with visit(browser, f"{address}/layers?run=with-2000") as seen:
        heat(seen.page)
        seen.page.get_by_role("button", name="Open all").click()
        heat(seen.page).evaluate("e => { e.scrollTop = e.scrollHeight; }")
        seen.page.wait_for_timeout(2_500)
        box = heat(seen.page).bounding_box()
        seen.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] - ROW / 2)
        shown = header(seen.page, "heat")
        assert "h.142." in shown
        assert "e−15" in shown


def test_nan_and_a_missing_measurement_are_drawn_and_said_apart(browser, address):
    with visit(browser, f"{address}/layers?run=with-304") as seen:
        row = heat(seen.page)
        for _ in range(4):
            row.press("ArrowDown")
        row.press("End")
        assert "h.2, closed NaN or ∞" in said(seen.page, "heat")
        box = row.bounding_box()
        names = min(max(box["width"] * 0.24, 110), 280)
        at = box["x"] + names + (box["width"] - names) * 155 / 400
        seen.page.mouse.move(at, box["y"] + 6 * ROW + 4)
        assert "h.5, closed not measured" in said(seen.page, "heat")


def test_a_filter_leaves_the_matching_tensors(browser, address):
    with visit(browser, f"{address}/layers?run=with-2000") as seen:
        heat(seen.page)
        seen.page.get_by_label("Filter rows by name").fill("h.77. attn.q")
        assert "2 of 2,000 tensors" in seen.page.locator("section[data-key='heat']").inner_text()
        row = heat(seen.page)
        assert row.evaluate("e => e.scrollHeight") == 5 * ROW  # h, h.77, h.77.attn, two tensors
        for _ in range(4):
            row.press("ArrowDown")
        assert "h.77.attn.q.weight" in said(seen.page, "heat")
        seen.page.wait_for_url("**filter=h.77.*attn.q*", timeout=60_000)


def test_modules_are_opened_along_their_path_by_keys_and_the_address_shows_them(browser, address):
    with visit(browser, f"{address}/layers?run=with-304") as seen:
        row = heat(seen.page)
        for _ in range(4):
            row.press("ArrowDown")
        row.press("Shift+ArrowRight")
        assert "h.2, open" in said(seen.page, "heat")
        row.press("ArrowDown")
        row.press("Shift+ArrowRight")
        assert "h.2.attn, open" in said(seen.page, "heat")
        seen.page.wait_for_url("**open=h.2.attn*", timeout=60_000)
        link = seen.page.url
    with visit(browser, link) as seen:
        row = heat(seen.page)
        for _ in range(6):
            row.press("ArrowDown")
        assert "h.2.attn.q.weight" in said(seen.page, "heat")
        row.press("Shift+ArrowLeft")
        row.press("Shift+ArrowLeft")
        assert "h.2.attn, closed" in said(seen.page, "heat")
        row.press("Shift+ArrowLeft")
        row.press("Shift+ArrowLeft")
        assert "h.2, closed" in said(seen.page, "heat")
        seen.page.wait_for_url(re.compile(r"open=h(&|$)"), timeout=60_000)


def test_scrolling_through_all_rows_of_2_000_tensors_keeps_frames_short(browser, address):
    with visit(browser, f"{address}/layers?run=with-2000&open=all") as seen:
        found = heat(seen.page)
        assert found.evaluate("e => e.scrollHeight") > 2_000 * ROW
        frame_ms = found.evaluate(SCROLL)
        assert frame_ms < FRAME_MS_MAX, frame_ms


def test_a_tensor_is_selected_by_a_click_or_a_key_and_stands_in_the_address(browser, address):
    with visit(browser, f"{address}/layers?run=with-304") as seen:
        click_row(seen.page, 3)
        click_row(seen.page, 4)
        click_row(seen.page, 5)
        seen.page.wait_for_url("**place=h.2.attn.q.weight*", timeout=60_000)
        plot(seen.page, "detail-weight-l2")
        seen.settle()
        seen.page.mouse.move(0, 0)
        row = heat(seen.page)
        for _ in range(7):
            row.press("ArrowDown")
        assert "h.2.attn.q.bias" in said(seen.page, "heat")
        row.press("Enter")
        seen.page.wait_for_url("**place=h.2.attn.q.bias*", timeout=60_000)


def test_the_heat_map_and_the_curves_of_the_tensor_have_one_cursor_and_one_range(browser, address):
    path = f"{address}/layers?run=with-304&place=h.4.attn.k.weight"
    with visit(browser, path) as seen:
        assert "h.4.attn.k.weight" in said(seen.page, "heat")
        hover(seen.page, "detail-gradient-l2", 0.5)
        assert "steps 198 to 200" in header(seen.page, "heat")
        box = heat(seen.page).bounding_box()
        y = box["y"] + 30
        names = min(max(box["width"] * 0.24, 110), 280)
        span = box["width"] - names
        seen.page.mouse.move(box["x"] + names + span * 0.25, y)
        assert "step 100" in header(seen.page, "detail-gradient-l2")
        seen.page.mouse.down()
        seen.page.mouse.move(box["x"] + names + span * 0.5, y, steps=5)
        seen.page.mouse.up()
        seen.page.wait_for_url("**from_step=100&to_step=200*", timeout=60_000)


def test_the_colours_change_between_logarithmic_and_linear(browser, address):
    with visit(browser, f"{address}/layers?run=with-2000") as seen:
        heat(seen.page)
        key = seen.page.locator("section[data-key='heat'] .ticks")
        logarithmic = key.inner_text().split()
        assert "e−" in logarithmic[1]
        heat(seen.page).press("l")
        assert key.inner_text().split()[1] != logarithmic[1]
        assert key.inner_text().split()[2] == logarithmic[2]


def live_updates(browser, run, path, chart, steps):
    """Return the updates of the board that has a chart, one for each of the steps or more."""
    found, frames = [], []

    def listen(page):
        received = partial(keep_bytes, frames)
        page.on("websocket", lambda ws: ws.on("framereceived", received))

    with (
        fake_collector(run) as fake,
        dashboard(fake.url, TOKEN) as url,
        visit(browser, url + path, listen=listen) as seen,
    ):
        plot(seen.page, chart)
        for step in steps:
            start, known = len(frames), {m["seq"] for m in board_messages(frames)}
            run.step = step
            deadline = time.monotonic() + 60
            while not (news := new_updates(frames[start:], chart, known)):
                assert time.monotonic() < deadline, f"no update for step {step}"
                seen.page.wait_for_timeout(100)
            found += news
    return found


def keep_bytes(frames, frame):
    if isinstance(frame, bytes):
        frames.append(frame)


def new_updates(frames, chart, known):
    """Return the updates that the browser did not have, of the board that has a chart."""
    return [
        update
        for update in updates(frames)
        if update.message["seq"] not in known
        and any(one["key"].startswith(chart) for one in update.message["charts"])
    ]


def test_an_update_of_the_curves_sends_4_KB_at_most(browser):
    steps = (700, 1_000, 1_300)
    found = live_updates(browser, spiking_run(), "/run?run=gpt-small", "curve-loss", steps)
    assert max(update.size for update in found) <= 4096, [update.size for update in found]
    assert all(update.message["base"] is not None for update in found)


def test_an_update_of_the_heat_map_sends_only_new_columns(browser):
    run = spiking_run(step=400, total_steps=2_000)
    found = live_updates(browser, run, "/layers?run=gpt-small", "heat", (430, 460))
    assert max(update.size for update in found) <= 4096, [update.size for update in found]
    news = [update.message for update in found]
    assert all(m["base"] is not None and len(json.dumps(m)) <= 4096 for m in news)


def test_an_update_of_a_tensor_gives_each_percentile_its_own_points(browser):
    run = spiking_run(step=400, total_steps=2_000)
    path = "/layers?run=gpt-small&place=encoder.3.weight"
    found = live_updates(browser, run, path, "detail-weight-magnitude", (430, 460))
    for update in found:
        [chart] = [c for c in update.message["charts"] if c["key"] == "detail-weight-magnitude_p95"]
        high, middle, low = (
            chart["points"][f"magnitude_p{share}"][MEAN][0] for share in ("95", "50", "05")
        )
        assert high > middle > low
        assert len(json.dumps(update.message)) <= 4096


@pytest.mark.timeout(240)
def test_an_update_of_the_page_of_200_biases_sends_4_KB_at_most(browser):
    run = spiking_run(layers=[f"encoder.{i}" for i in range(200)], step=400, total_steps=2_000)
    frames = []

    def listen(page):
        received = partial(keep_bytes, frames)
        page.on("websocket", lambda ws: ws.on("framereceived", received))

    with (
        fake_collector(run) as fake,
        dashboard(fake.url, TOKEN) as url,
        visit(browser, f"{url}/bias?run=gpt-small", listen=listen, settled=False) as seen,
    ):
        # The script of so many curves runs in most of the time between two updates.
        seen.settle(wait_ms=90_000)
        table = seen.page.get_by_role("table", name="Biases")
        table.wait_for()
        before = table.inner_text()
        frames.clear()
        run.step = 460
        deadline = time.monotonic() + 60
        while len(sizes := part_sizes(frames)) < 4 or table.inner_text() == before:
            assert time.monotonic() < deadline, sizes
            seen.page.wait_for_timeout(250)
        assert max(sizes) <= 4096, sizes
        assert seen.errors == []
