"""The page of the settings: values and variables, the token's rights, nothing secret."""

import pytest

from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_alerts import SETTINGS, notifications
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import HOSTILE
from trainvitals_dashboard.wording import bytes_text


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption)).replace("\\", "")


def test_each_setting_has_its_value_its_variable_and_its_default(open_page, collector):
    text = words(open_page("settings"))
    size = "2\N{NO-BREAK SPACE}MiB"
    assert f"| Bytes of a request, as sent. `TRAINVITALS_BODY_BYTES_MAX` | {size} |" in text
    assert "`TRAINVITALS_SERIES_MAX` | **100,000** (default 2,000,000) |" in text
    assert "`TRAINVITALS_RETAIN_ENDED_DAYS` | **30** (default 0, no limit) |" in text
    assert "`TRAINVITALS_RETAIN_TOTAL_BYTES` | 0, no limit |" in text
    assert "`TRAINVITALS_METRICS_SCALARS` | none |" in text
    assert "`TRAINVITALS_PORT` | **41007** (default 8321) |" in text
    assert "`TRAINVITALS_ROUND_INTERVAL_S` | 1 |" in text, "1.0 is the default 1"


def test_of_what_is_secret_only_that_it_is_set_is_shown(open_page, collector):
    text = words(open_page("settings"))
    assert "`TRAINVITALS_DATABASE_URL` | set |" in text
    assert "`TRAINVITALS_TLS_KEY` | default |" in text


def test_the_collector_and_the_token_are_described(open_page, collector, tmp_path):
    text = words(open_page("settings"))
    assert "| database | sqlite |" in text
    assert "| scope | read: reading runs, alerts and metrics |" in text
    assert "| projects | all projects |" in text
    assert str(tmp_path / "token") in text
    assert TOKEN not in text


def test_a_token_of_one_project_is_said_to_be_one(open_page, collector):
    viewer = {"id": "1", "scope": "read", "project": "shop"}
    collector.settings = {**SETTINGS, "viewer": viewer}
    assert "| projects | shop |" in words(open_page("settings"))


def test_a_typed_token_is_said_to_be_one(open_page, collector):
    app = open_page("settings", asks=True)
    app.text_input[0].set_value(TOKEN)
    app.button[0].click().run()
    assert "entered in this tab" in words(app)
    assert TOKEN not in words(app)


def test_changed_thresholds_are_listed(open_page, collector):
    assert "| dead relu | `dead_share_error` | 0.95 |" in words(open_page("settings"))
    collector.settings = {**SETTINGS, "thresholds": {}}
    assert "The collector changes no threshold." in words(open_page("settings"))


def test_a_rescue_is_said(open_page, collector):
    collector.rescue = True
    assert "read-only: the database is damaged" in words(open_page("settings"))


def test_a_number_of_bytes_has_the_largest_whole_unit():
    counts = (0, 1023, 1024, 1536, 2 * 2**20, 3 * 2**40)
    shown = ["0 bytes", "1,023 bytes", "1 KiB", "1,536 bytes", "2 MiB", "3 TiB"]
    assert [bytes_text(count) for count in counts] == shown


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
def test_in_a_browser_it_has_no_error_and_names_the_theme():
    with (
        fake_collector() as fake,
        dashboard(fake.url, TOKEN) as url,
        chromium() as browser,
    ):
        fake.notifications = notifications()
        fake.settings = {**SETTINGS, "viewer": {"id": "1", "scope": "read", "project": HOSTILE}}
        for width, dark in ((1600, False), (390, True)):
            with visit(browser, f"{url}/settings", width=width, dark=dark) as seen:
                theme = "dark" if dark else "light"
                seen.page.get_by_text(f"This browser shows the {theme} theme").wait_for()
                seen.page.get_by_text("last error").wait_for(timeout=60_000)
                assert "<img src=x onerror" in seen.text()
                assert TOKEN not in seen.page.content()
                assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
                assert seen.errors == []
                assert seen.foreign == []
