"""The table of runs in a real Chromium: dense, sorted, live, a list of cards on a phone."""

import pytest

from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_experiment import experiment_run
from helpers.fake_runs import healthy_run, hostile_run, spiking_run, vanishing_run, young_run

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def collector():
    many = [healthy_run(f"vit-seed-{i}", step=104) for i in range(140)]
    with fake_collector(vanishing_run(), spiking_run(), hostile_run(), *many) as fake:
        yield fake


@pytest.fixture(scope="module")
def address(collector):
    with dashboard(collector.url, TOKEN) as url:
        yield url


def whole_rows(page, height):
    """Return the number of runs that are completely on the screen."""
    boxes = [row.bounding_box() for row in page.locator("tbody tr").all()]
    return sum(box is not None and box["y"] + box["height"] <= height for box in boxes)


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_twenty_runs_fit_on_a_screen(browser, address, dark):
    with visit(browser, address, dark=dark) as seen:
        seen.page.set_viewport_size({"width": 1600, "height": 1000})
        seen.page.get_by_role("link", name="sigmoid-deep", exact=True).wait_for(timeout=60_000)
        assert whole_rows(seen.page, 1000) >= 20
        assert (seen.errors, seen.foreign) == ([], [])


@pytest.mark.parametrize("dark", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_phone_shows_cards_within_its_width(browser, address, dark):
    with visit(browser, address, width=390, dark=dark) as seen:
        card = seen.page.locator("tbody tr").first
        card.wait_for(timeout=60_000)
        box = card.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["height"] > 60
        assert seen.page.locator("thead").is_hidden()
        assert "The gradient of the first layer" in card.inner_text()
        assert (seen.errors, seen.foreign) == ([], [])


def test_each_column_has_a_visible_title(browser, address):
    with visit(browser, address) as seen:
        titles = seen.page.locator("thead th").all_inner_texts()
    assert titles[:4] == ["Verdict", "Run", "Findings", "Main finding"]
    assert all(title.strip() for title in titles)


def test_a_title_sorts_and_the_order_is_written_into_the_address(browser, address):
    with visit(browser, address) as seen:
        title = seen.page.get_by_role("columnheader", name="Verdict")
        title.get_by_role("button").click()
        seen.page.wait_for_url("**sort=verdict*", timeout=60_000)
        seen.settle()
        assert title.get_attribute("aria-sort") == "ascending"
        title.get_by_role("button").click()
        seen.page.wait_for_url("**sort=-verdict*", timeout=60_000)
        seen.settle()
        assert "healthy" in seen.page.locator("tbody tr").first.inner_text()
        assert title.get_attribute("aria-sort") == "descending"


def test_a_verdict_is_chosen_and_written_into_the_address(browser, address):
    with visit(browser, address) as seen:
        seen.page.get_by_role("combobox", name="Verdict").click()
        seen.page.get_by_role("option", name="error").click()
        seen.page.wait_for_url("**verdict=error*", timeout=60_000)
        seen.page.get_by_role("link", name="gpt-small", exact=True).wait_for(
            state="detached", timeout=60_000
        )
        assert seen.page.locator("tbody tr").count() == 1


@pytest.mark.slow  # test_fleet_page.py has both without a browser
def test_the_address_chooses_a_verdict_of_two_words_and_archived_runs(browser):
    old = young_run("old", fields={"archived": True})
    with (
        fake_collector(healthy_run(), young_run("young"), old) as fake,
        dashboard(fake.url, TOKEN) as url,
        visit(browser, f"{url}/?verdict=too_early") as seen,
    ):
        page = seen.page
        page.get_by_role("link", name="young", exact=True).wait_for(timeout=60_000)
        assert page.get_by_role("combobox", name="Verdict").input_value() == "too early"
        assert page.locator("tbody tr").count() == 1
        page.get_by_text("Archived", exact=True).click()
        page.get_by_role("link", name="old", exact=True).wait_for(timeout=60_000)
        page.wait_for_url("**archived=true*", timeout=60_000)
        assert page.locator("tbody tr").count() == 2
        assert (seen.errors, seen.foreign) == ([], [])


def test_a_count_of_findings_leads_to_the_run(browser, address):
    with visit(browser, address) as seen:
        seen.page.get_by_role("link", name="1 error in sigmoid-deep").click()
        seen.page.wait_for_url("**/run?run=sigmoid-deep", timeout=60_000)
        seen.page.get_by_text("What would prove this wrong").first.wait_for(timeout=60_000)


def test_more_runs_come_on_demand(browser, address):
    with visit(browser, address) as seen:
        assert seen.page.locator("tbody tr").count() == 100
        seen.page.get_by_role("button", name="Show more runs (43 left)").click()
        seen.page.wait_for_function(
            "() => [...document.querySelectorAll('*')].some(e => e.shadowRoot &&"
            " e.shadowRoot.querySelectorAll('tbody tr').length === 143)"
        )


def test_the_table_follows_its_runs_from_an_empty_page_on(browser):
    with (
        fake_collector() as fake,
        dashboard(fake.url, TOKEN, refresh_s=1.0) as url,
        visit(browser, url) as seen,
    ):
        seen.page.get_by_text("No runs yet").wait_for(timeout=60_000)
        run = spiking_run()
        fake.runs.append(run)
        seen.page.get_by_role("link", name="gpt-small", exact=True).wait_for(timeout=60_000)
        run.step = 700
        seen.page.get_by_text("step 700 of 2,000 (35 %)").wait_for(timeout=60_000)
        fake.runs.insert(0, healthy_run())
        seen.page.get_by_role("link", name="resnet-baseline", exact=True).wait_for(timeout=60_000)
        assert seen.page.locator("tbody tr").first.inner_text().count("resnet-baseline") == 1
        assert seen.errors == []


def test_the_result_of_an_experiment_opens_its_own_page(browser):
    with (
        fake_collector(experiment_run("sweep"), healthy_run()) as fake,
        dashboard(fake.url, TOKEN) as url,
        visit(browser, url) as seen,
    ):
        link = seen.page.get_by_role("link", name="sweep", exact=True)
        assert link.get_attribute("href") == "experiments?run=sweep"
        link.click()
        seen.page.wait_for_url("**/experiments?run=sweep", timeout=60_000)
        seen.page.get_by_text("During the training").wait_for(timeout=60_000)
