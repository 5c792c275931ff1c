"""The page of the alerts: what is open in all runs, what was sent, what is silenced."""

import pytest

from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_alerts import hostile_notifications, notice, notifications
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import (
    healthy_run,
    hostile_run,
    spiking_run,
    vanishing_run,
)
from helpers.sent import codes

STRANGERS = """() => [...document.querySelectorAll("a[href], img[src], iframe")]
    .map(e => e.href || e.src || e.tagName)
    .filter(url => !["127.0.0.1", ""].includes(new URL(url, location).hostname))"""


def words(app):
    elements = (*app.markdown, *app.caption, *app.info, *app.success, *app.warning)
    return "\n".join(e.value for e in elements).replace("\\", "")


def links(app):
    """Return (label, page, query) of each link."""
    found = [e.proto for e in app.get("page_link")]
    return [(e.label.replace("\\", ""), e.page, e.query_string) for e in found]


def test_open_findings_are_grouped_by_run_and_running_runs_come_first(open_page, collector):
    collector.runs = [vanishing_run(), spiking_run(), healthy_run()]
    app = open_page("alerts")
    text = words(app)
    assert "1 error, 2 warnings in 2 runs" in text
    assert text.index("The loss jumped") < text.index("The gradient of the first layer")
    labels = [label for label, _, query in links(app) if query]
    assert labels == [
        "**gpt-small**",
        "TV503 loss spike",
        "**sigmoid-deep**",
        "TV101 vanishing gradient",
        "TV501 no learning",
    ]
    assert "resnet-baseline" not in text


def test_a_cause_stands_above_its_effect(open_page, collector):
    cause, effect = vanishing_run().findings
    collector.runs = [healthy_run(findings=[effect, cause])]
    text = words(open_page("alerts"))
    assert text.index("The gradient of the first layer") < text.index("The loss is 2.303")


def test_each_alert_says_since_when_where_and_why(open_page, collector):
    collector.runs = [vanishing_run()]
    text = words(open_page("alerts"))
    assert "since step 12 · found 3 min ago · at `encoder.4.weight`" in text
    assert "since step 40 · found 3 min ago · explained by TV101" in text


def test_it_leads_to_the_run_and_to_the_rule(open_page, collector):
    collector.runs = [vanishing_run()]
    found = {label: (page, query) for label, page, query in links(open_page("alerts"))}
    assert found["**sigmoid-deep**"] == ("run", "run=sigmoid-deep")
    assert found["TV101 vanishing gradient"] == ("rule", "code=TV101")


def test_alerts_are_filtered_by_severity_and_state(open_page, collector):
    collector.runs = [vanishing_run(), spiking_run()]
    app = open_page("alerts")
    app.selectbox(key="severity").set_value("errors").run()
    assert "gpt-small" not in str(links(app))
    assert "TV501" not in str(links(app))
    app.selectbox(key="severity").set_value(None)
    app.selectbox(key="state").set_value("running").run()
    assert "gpt-small" in str(links(app))
    assert "sigmoid-deep" not in str(links(app))
    app.selectbox(key="state").set_value("lost").run()
    assert "No finding that matches these filters is open." in words(app)


def test_without_findings_it_says_so(open_page, collector):
    collector.runs = [healthy_run()]
    assert "is open" in words(open_page("alerts"))


def test_more_runs_than_fit_are_shown_on_demand(open_page, collector):
    collector.runs = [vanishing_run(f"run-{i}") for i in range(23)]
    app = open_page("alerts")
    assert sum(page == "run" for _, page, _ in links(app)) == 20
    app.button[0].click().run()
    assert sum(page == "run" for _, page, _ in links(app)) == 23


def test_what_was_sent_is_beside_the_alert_and_in_the_list(open_page, collector):
    collector.runs = [vanishing_run(), spiking_run()]
    told = notice("gpt-small", "loss_spike", channel="pager", state="waiting", at=0, attempts=3)
    collector.notifications = notifications(notice("sigmoid-deep", "vanishing_gradient"), told)
    text = words(open_page("alerts"))
    assert "team: delivered 2 min ago" in text
    assert "pager: waiting, 3 failed, next attempt now" in text
    assert "| vanishing gradient in sigmoid-deep | team | opened: delivered 2 min ago |" in text


def test_channels_have_their_last_error_and_silences_their_end(open_page, collector):
    collector.notifications = notifications()
    text = words(open_page("alerts"))
    assert "| pager | webhook | – | 1 min ago: the webhook answered 503 |" in text
    assert "| spare | webhook, no route | – | – |" in text
    assert "| project sandbox | for ever | – |" in text
    assert "| run old-* · rule dead_relu | in 2 h 1 min | – |" in text
    assert "`trainvitals notify test --channel NAME`" in text
    assert "No message was sent." in text


def test_without_a_channel_it_shows_how_to_configure_one(open_page, collector):
    app = open_page("alerts")
    assert "No channel is configured" in words(app)
    assert "[notifications.channels.team]" in codes(app)[0]


def test_a_collector_that_is_away_is_explained(open_page, collector):
    collector.down = True
    app = open_page("alerts")
    [error] = app.error
    assert "does not answer" in error.value


def test_every_page_about_all_runs_leads_to_alerts_and_settings(open_page, collector):
    collector.runs = [healthy_run()]
    for page in ("fleet", "alerts", "settings", "rule"):
        assert {"alerts", "settings"} <= {page for _, page, _ in links(open_page(page))}


def test_a_rule_has_a_page_of_its_own(open_page, collector):
    text = words(open_page("rule", code="TV201"))
    assert "## TV201 dead relu" in text
    assert "**When it is wrong**" in text
    assert "`dead_share_error`" in text
    assert "has no rule `TV000`" in words(open_page("rule", code="TV000"))


def test_the_page_of_the_rules_lists_them_with_links(open_page, collector):
    page = open_page("rule")
    assert "## Rules" in words(page)
    assert ("TV201", "rule", "code=TV201") in [
        (label.split("**")[1], target, query)
        for label, target, query in links(page)
        if "**" in label
    ]


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
def test_in_a_browser_it_is_live_and_hostile_names_are_text():
    with (
        fake_collector(vanishing_run(), hostile_run()) as fake,
        dashboard(fake.url, TOKEN) as url,
        chromium() as browser,
    ):
        fake.notifications = hostile_notifications()
        with visit(browser, f"{url}/alerts") as seen:
            for width in (1600, 390):
                if width == 390:
                    seen.on_a_phone()
                seen.page.get_by_text("Silences").wait_for(timeout=60_000)
                assert seen.text().count("<img src=x onerror") >= 3
                assert "💀" not in seen.text()
                assert seen.page.evaluate(STRANGERS) == []
                assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
                assert seen.errors == []
                assert seen.foreign == []
        with visit(browser, f"{url}/alerts?severity=errors&state=finished") as seen:
            seen.page.get_by_text("1 error in 1 run").wait_for(timeout=60_000)
            assert "TV501" not in seen.text()
        with visit(browser, f"{url}/alerts?severity=x&state=x") as seen:
            seen.page.get_by_text("TV501").first.wait_for(timeout=60_000)
            fake.runs.append(spiking_run())
            seen.page.get_by_text("The loss jumped").wait_for(timeout=60_000)
            seen.page.get_by_role("link", name="TV101 vanishing gradient").focus()
            seen.page.keyboard.press("Enter")
            seen.page.wait_for_url("**/rule?code=TV101")
            seen.page.get_by_text("When it is wrong").wait_for(timeout=60_000)
            seen.page.wait_for_function(
                "document.title === 'TV101 vanishing gradient – trainvitals'"
            )
        with visit(browser, f"{url}/rule") as seen:
            seen.page.get_by_role("link", name="TV101 vanishing gradient").click(timeout=60_000)
            seen.page.get_by_text("When it is wrong").wait_for(timeout=60_000)
            seen.page.wait_for_url("**/rule?code=TV101")
            assert seen.errors == []
