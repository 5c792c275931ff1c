"""The dashboard in a real Chromium: started by its command, read as a person reads it."""

from urllib.parse import quote

import pytest

from helpers.board import header, plot, said
from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import HOSTILE, healthy_run, hostile_run, spiking_run, vanishing_run

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(240)]

VIEWS = {
    "/": "The gradient of the first layer",
    "/run?run=sigmoid-deep": "What would prove this wrong",
    "/run?run=gpt-small": "The loss jumped from 0.2 to 10,000",
    "/layers?run=sigmoid-deep&place=encoder.4.weight": "Update: RMS(ΔW) / RMS(W)",
    f"/run?run={quote(HOSTILE)}": "<img src=x onerror=alert(1)>",
    f"/layers?run={quote(HOSTILE)}": "<img src=x onerror=alert(1)>",
    "/initialisation?run=sigmoid-deep": "Through the depth",
    f"/initialisation?run={quote(HOSTILE)}": "<img src=x onerror=alert(1)>",
    "/loss?run=resnet-baseline": "Gap to the training loss",
    f"/loss?run={quote(HOSTILE)}": "<img src=x onerror=alert(1)>",
    "/bias?run=resnet-baseline": "Drift of the biases",
    f"/compare?run=sigmoid-deep&run={quote(HOSTILE)}": "<img src=x onerror=alert(1)>",
    f"/bias?run={quote(HOSTILE)}": "<img src=x onerror=alert(1)>",
}
STRANGERS = """() => [document, ...[...document.querySelectorAll("*")].map(e => e.shadowRoot)]
    .flatMap(e => e ? [...e.querySelectorAll("a[href], img[src], iframe, object, embed")] : [])
    .map(e => e.href || e.src || e.tagName)
    .filter(url => !["127.0.0.1", ""].includes(new URL(url, location).hostname))"""
"""Links, images and frames of the page that lead elsewhere."""
FITS = """() => document.documentElement.scrollWidth
    <= document.documentElement.clientWidth"""
HOSTILE_VIEWS = ["/", *(path for path in VIEWS if "onerror" in path)]


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def collector():
    runs = (vanishing_run(), spiking_run(), healthy_run(), hostile_run())
    with fake_collector(*runs) as fake:
        yield fake


@pytest.fixture(scope="module")
def address(collector):
    with dashboard(collector.url, TOKEN) as url:
        yield url


@pytest.fixture(scope="module")
def empty_dashboard():
    """A collector to which tests add runs of their own names, and the dashboard of it."""
    with fake_collector() as fake, dashboard(fake.url, TOKEN) as url:
        yield fake, url


@pytest.fixture
def live(empty_dashboard):
    fake, url = empty_dashboard
    fake.runs = []
    return fake, url


@pytest.mark.parametrize("path", VIEWS)
def test_each_view_says_its_headline_without_an_error_and_stays_here(browser, address, path):
    with visit(browser, address + path) as seen:
        page, dialogs = seen.page, []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.get_by_text(VIEWS[path], exact=False).first.wait_for(timeout=60_000)
        assert page.evaluate(FITS), "the page is wider than the screen"
        seen.on_a_phone()
        page.get_by_text(VIEWS[path], exact=False).first.wait_for(timeout=60_000)
        assert page.evaluate(FITS), "the page is wider than a phone"
        if path in HOSTILE_VIEWS:
            assert_hostile_names_are_text(seen)
        assert (seen.errors, seen.refused, dialogs) == ([], [], [])
        assert seen.foreign == []


def assert_hostile_names_are_text(seen):
    """Assert that a name on this page makes no link, no image and no icon."""
    seen.page.wait_for_timeout(500)
    assert seen.page.evaluate(STRANGERS) == []
    assert "💀" not in seen.text()
    assert ":skull:" in seen.text().replace("\u2060", "")


@pytest.mark.parametrize("path", ["/run?run=gpt-small", "/layers?run=sigmoid-deep"])
def test_a_view_that_is_opened_on_a_phone_fits_too(browser, address, path):
    with visit(browser, address + path, width=390, dark=True) as seen:
        assert seen.page.evaluate(FITS), "the page is wider than a phone"
        assert (seen.errors, seen.refused) == ([], [])


def test_a_hostile_layer_is_text_in_the_heat_map(browser, address):
    with visit(browser, f"{address}/layers?run={quote(HOSTILE)}") as seen:
        heat = plot(seen.page, "heat")
        heat.press("ArrowDown")
        heat.press("ArrowDown")
        assert "<img src=x" in said(seen.page, "heat")
        assert "<img src=x" in header(seen.page, "heat")
        assert seen.page.locator("section[data-key='heat'] img").count() == 0
        assert seen.foreign == []


def test_a_run_is_a_click_away_and_its_address_can_be_shared(browser, address):
    with visit(browser, address) as seen:
        seen.page.get_by_role("link", name="resnet-baseline", exact=True).click()
        seen.page.wait_for_url("**/run?run=resnet-baseline")
        seen.page.get_by_text("No errors or warnings in 401 steps.").wait_for(timeout=60_000)


def test_the_tab_title_names_verdict_state_and_run(browser, address):
    with visit(browser, f"{address}/run?run=sigmoid-deep") as seen:
        seen.page.wait_for_function(
            "document.title === 'error · finished · sigmoid-deep – trainvitals'"
        )
    with visit(browser, f"{address}/layers?run=resnet-baseline") as seen:
        seen.page.wait_for_function(
            "document.title === 'healthy · finished · resnet-baseline – trainvitals'"
        )


def test_a_rule_page_opens_below_its_finding(browser, address):
    with visit(browser, f"{address}/run?run=sigmoid-deep") as seen:
        seen.page.get_by_text("About this rule").first.click()
        seen.page.get_by_text("When it is wrong").wait_for(timeout=60_000)
        assert (seen.errors, seen.refused) == ([], [])


def test_a_search_is_written_into_the_address(browser, address):
    with visit(browser, address) as seen:
        seen.page.get_by_placeholder("Name, project, host or tag").fill("gpt")
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_url("**search=gpt*")
        seen.page.get_by_role("link", name="sigmoid-deep", exact=True).wait_for(
            state="detached", timeout=60_000
        )


def test_a_run_is_followed_without_a_click_and_left_alone_when_it_has_ended(browser, live):
    fake, url = live
    run = spiking_run("followed")
    fake.runs.append(run)
    with visit(browser, f"{url}/run?run=followed") as seen:
        run.step = 700
        seen.page.get_by_text("step 700 of 2,000", exact=False).first.wait_for(timeout=60_000)
        run.state = "finished"
        seen.page.get_by_text("finished").first.wait_for(timeout=60_000)
        seen.page.wait_for_timeout(1_500)
        asked = len(fake.asked)
        seen.page.wait_for_timeout(4_500)
        assert len(fake.asked) == asked


def test_the_first_run_and_new_layers_values_appear_without_a_click(browser, live):
    fake, url = live
    with visit(browser, url) as seen:
        seen.page.get_by_text("No runs yet").wait_for(timeout=60_000)
        run = spiking_run("first")
        fake.runs.append(run)
        seen.page.get_by_role("link", name="first", exact=True).wait_for(timeout=60_000)
        seen.page.goto(f"{url}/layers?run=first")
        seen.settle()
        heat = plot(seen.page, "heat")
        heat.press("End")
        assert "to 400." in said(seen.page, "heat")
        run.step = 700
        seen.page.get_by_text("step 700 of 2,000", exact=False).first.wait_for(timeout=60_000)
        seen.settle()
        heat.press("End")
        assert "to 700." in said(seen.page, "heat")


def test_layers_that_are_measured_for_the_first_time_appear_without_a_click(browser, live):
    fake, url = live
    run = spiking_run("measured-late", layers=[])
    fake.runs.append(run)
    with visit(browser, f"{url}/layers?run=measured-late") as seen:
        seen.page.get_by_text("No layer was measured yet.").wait_for(timeout=60_000)
        run.layers = ["encoder.0", "encoder.1"]
        run.step = 410
        assert "4 tensors" in said(seen.page, "heat")
