"""The page of a run deletes it after a second click, and takes it back."""

import pytest

from helpers.batches import batch, scalar_frame, scalars, start
from helpers.chromium import chromium, visit
from helpers.collector import running_collector
from helpers.dashboards import dashboard
from helpers.opened_page import checked, click, opener
from trainvitals_server.auth import Scope


@pytest.fixture
def collector(tmp_path):
    with running_collector(tmp_path, round_interval_s=3600) as running:
        sent = batch(start(name="first"), scalars("loss"), scalar_frame([0], [1.0]))
        assert running.send(sent).status_code == 200
        yield running


@pytest.fixture
def page(collector, tmp_path):
    """Return a function that opens the page of the run with a token."""
    with opener(collector, tmp_path, "run", run="r") as opened:
        yield opened


def status(collector):
    return collector.get("/api/v1/runs/r").status_code


def test_a_deleted_run_is_in_the_bin_and_comes_back(collector, page):
    app = page(collector.token)
    assert status(collector) == 200, "the first click shows the question only"
    app = click(app, "Delete this run")
    assert status(collector) == 404
    [said] = [e.value for e in app.info]
    assert said.startswith("**The run `r` is in the bin.** All its data is removed in ")
    assert not app.metric, "nothing of the run is shown"
    app = click(app, "Undelete")
    assert status(collector) == 200
    assert app.info == []
    assert any("first" in m.value for m in app.markdown)


def test_a_running_run_is_deleted_with_a_warning(collector, page):
    app = page(collector.token)
    assert any("Records that it sends from now on are refused" in c.value for c in app.caption)


def test_a_reader_is_not_offered_to_delete(collector, page):
    app = page(collector.app.state.tokens.create(Scope.READ))
    assert [b.label for b in app.button if "elete" in b.label] == []


def test_what_the_collector_refuses_is_said(collector, page):
    app = page(collector.token)
    collector.app.state.tokens.revoke(collector.token.split("_")[2])
    [button] = [b for b in app.button if b.label == "Delete this run"]
    app = button.click().run()
    assert any("does not accept the token" in e.value for e in app.error)


def test_a_run_that_someone_else_brought_back_is_shown(collector, page):
    app = click(page(collector.token), "Delete this run")
    [(key, _)] = collector.store.in_bin("r")
    collector.store.bring_back(key, "other")
    app = checked(app.run())
    assert app.info == []
    assert any("first" in m.value for m in app.markdown)


def test_a_new_run_with_the_id_of_a_deleted_one_is_shown(collector, page):
    app = click(page(collector.token), "Delete this run")
    sent = batch(start(name="second"), source=b"other-source-123")
    assert collector.send(sent).status_code == 200
    app = checked(app.run())
    assert any("second" in m.value for m in app.markdown)


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
def test_in_a_browser_two_clicks_delete_and_one_brings_back(collector):
    with (
        dashboard(collector.url, collector.token) as url,
        chromium() as browser,
        visit(browser, f"{url}/run?run=r", width=390) as seen,
    ):
        page = seen.page
        page.get_by_role("button", name="Delete", exact=False).first.click()
        question = page.get_by_role("button", name="Delete this run")
        question.wait_for(timeout=60_000)
        assert status(collector) == 200
        question.click()
        page.get_by_text("is in the bin").wait_for(timeout=60_000)
        assert status(collector) == 404
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("button", name="Undelete").click()
        page.get_by_text("About this run").wait_for(timeout=60_000)
        assert status(collector) == 200
        assert seen.errors == []
