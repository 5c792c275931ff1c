"""The page of the alerts adds and ends silences and tries channels, for tokens that may write."""

import json
import time

import pytest

from helpers import plain_http
from helpers.chromium import chromium, visit
from helpers.collector import running_collector
from helpers.dashboards import dashboard
from helpers.opened_page import checked, click, opener
from helpers.webhook import running_webhook
from trainvitals_dashboard.parts.silencing import wanted_silence
from trainvitals_server.auth import Scope

HOOK_PATH = "address-s3cr3t"


@pytest.fixture
def hook():
    with running_webhook() as running:
        yield running


@pytest.fixture
def collector(tmp_path, hook):
    channel = {"webhook": f"{hook.url}/{HOOK_PATH}", "key": "signing-key-0123456789"}
    notifications = {
        "channels": {"team": channel},
        "routes": [{"channels": ["team"]}],
        "silences": [{"projects": ["sandbox"]}],
    }
    with running_collector(tmp_path, round_interval_s=3600, notifications=notifications) as running:
        yield running


@pytest.fixture
def page(collector, tmp_path):
    """Return a function that opens the page with a token."""
    with opener(collector, tmp_path, "alerts") as opened:
        yield opened


def text(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption)).replace("\\", "")


def silences(collector):
    held = collector.get("/api/v1/notifications").json()["silences"]
    return [one for one in held if one["id"]]


def test_a_silence_is_added_shown_and_ended(collector, page):
    app = page(collector.token)
    app.text_input(key="silence_runs").set_value("night-*, old-*")
    app.text_input(key="silence_rules").set_value("dead_relu")
    app.selectbox(key="silence_for").set_value("8 hours")
    app.text_input(key="silence_reason").set_value(" a known [leak](http://x.test) ")
    app = click(app, "Add")
    [added] = silences(collector)
    assert (added["runs"], added["rules"]) == (["night-*", "old-*"], ["dead_relu"])
    assert added["until"] == pytest.approx(time.time() + 8 * 3600, abs=60)
    assert added["reason"] == "a known [leak](http://x.test)"
    shown = text(app).replace("\u2060", "").replace("in 7 h 59 min", "in 8 h")
    reason = f"a known [leak](http://x.test) (token {added['by']})"
    assert f"| run night-*, old-* · rule dead_relu | in 8 h | {reason} |" in shown
    assert "| project sandbox | for ever | – |" in shown
    [end] = [b for b in app.button if b.label.startswith("End: ")]
    app = checked(end.click().run())
    assert silences(collector) == []
    assert "night-*" not in text(app)


def test_a_silence_without_a_reason_is_refused_before_it_is_sent(collector, page):
    app = click(page(collector.token), "Add")
    assert any("give a reason" in e.value for e in app.error)
    assert silences(collector) == []


def test_what_the_collector_refuses_is_said_and_the_form_keeps_its_text(collector, page):
    app = page(collector.token)
    app.text_input(key="silence_runs").set_value("x" * 300)
    app.text_input(key="silence_reason").set_value("known")
    app = click(app, "Add")
    assert any("Nothing is silenced: runs" in e.value for e in app.error)
    assert app.text_input(key="silence_reason").value == "known"


def test_a_channel_is_tried(collector, page, hook):
    app = click(page(collector.token), "team")
    assert [e.value for e in app.success if "Delivered" in e.value] == [
        "Delivered. team: the webhook answered 200"
    ]
    assert json.loads(hook.received[0].body)["event"] == "test"
    app = click(app, "team")
    assert any("Wait" in e.value for e in app.error)
    assert HOOK_PATH not in text(app)


def test_a_channel_that_fails_is_said(collector, page, hook):
    hook.status = 403
    app = click(page(collector.token), "team")
    assert any("Not delivered. team: the webhook answered 403" in e.value for e in app.error)


def test_a_reader_sees_silences_and_is_offered_nothing(collector, page):
    body = {"hours": 1, "reason": "planned work"}
    answer = plain_http.post(
        f"{collector.url}/api/v1/silences", headers=collector.headers, json=body
    )
    assert answer.status_code == 200
    app = page(collector.app.state.tokens.create(Scope.READ))
    assert "planned work" in text(app)
    assert [b.label for b in app.button] == []
    assert app.text_input == []
    assert "`trainvitals notify test --channel NAME`" in text(app)


def test_empty_fields_of_the_form_are_all_and_doubles_are_one():
    wanted = wanted_silence(" , ", "a, b,a", "", "1 day", " why ")
    assert wanted == {
        "runs": ["*"],
        "rules": ["a", "b"],
        "projects": ["*"],
        "hours": 24,
        "reason": "why",
    }


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("width", "dark"), [(1600, False), pytest.param(390, True, marks=pytest.mark.slow)]
)
def test_in_a_browser_the_form_stays_open_while_the_page_is_refreshed(collector, width, dark):
    with (
        dashboard(collector.url, collector.token) as url,
        chromium() as browser,
        visit(browser, f"{url}/alerts", width=width, dark=dark) as seen,
    ):
        page = seen.page
        page.get_by_role("button", name="Silence", exact=False).first.click()
        page.get_by_label("Reason").fill("known")
        page.wait_for_timeout(6_000)  # one refresh
        assert page.get_by_label("Reason").input_value() == "known"
        page.get_by_role("button", name="Add", exact=True).click()
        page.get_by_role("button", name="End: known").wait_for(timeout=60_000)
        assert [one["reason"] for one in silences(collector)] == ["known"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("Escape")
        page.get_by_role("button", name="End: known").click()
        page.get_by_role("button", name="End: known").wait_for(state="detached", timeout=60_000)
        assert silences(collector) == []
        assert (seen.errors, seen.foreign) == ([], [])
