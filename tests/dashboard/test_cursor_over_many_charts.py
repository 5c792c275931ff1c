"""The cursor of a page with twelve charts is drawn without a message to the server."""

import pytest

from helpers.board import header, hover, plot
from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import FakeRun

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(120)]
LOGGED = tuple(f"log/metric-{i}" for i in range(10))


def test_a_cursor_over_twelve_charts_sends_nothing():
    run = FakeRun("many", scalars=("loss", "gradient_norm", *LOGGED), values=lambda *_: 1.0)
    sent = []

    def listen(page):
        page.on("websocket", lambda ws: ws.on("framesent", lambda frame: sent.append(frame)))

    with (
        fake_collector(run) as fake,
        dashboard(fake.url, TOKEN) as url,
        chromium() as browser,
        visit(browser, f"{url}/run?run=many", listen=listen) as seen,
    ):
        seen.page.get_by_text("Logged scalars (10)").click()
        plot(seen.page, LOGGED[-1])
        seen.settle()
        seen.page.wait_for_timeout(1_000)
        assert seen.page.locator("section.chart canvas").count() == 12
        plot(seen.page, "curve-loss")
        assert sent, "the frames of the page are not seen"
        sent.clear()
        for i in range(30):
            hover(seen.page, "curve-loss", 0.1 + 0.02 * i)
        for chart in ("curve-gradient_norm", *LOGGED):
            assert "step" in header(seen.page, chart)
        assert sent == []
