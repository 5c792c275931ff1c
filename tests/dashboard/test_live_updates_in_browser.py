"""In a real Chromium, charts keep a zoom over 100 live updates, and outlive a lost message."""

from urllib.parse import parse_qs, urlsplit

import pytest

from helpers.board import Frames, axis_ends, board_messages, drag, plot
from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import spiking_run

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(240)]
RUNNING = {"state": "running", "total_steps": 20_000}


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize("updates", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_a_zoom_is_kept_over_many_live_updates(browser, updates):
    run = spiking_run(**RUNNING)
    frames = Frames()

    def news():
        """Return the numbers of the messages with new points."""
        messages = board_messages(frames.received)
        return {m["seq"] for m in messages if m["charts"][0]["key"] == "curve-loss"}

    with (
        fake_collector(run) as fake,
        dashboard(fake.url, TOKEN, refresh_s=0.1) as url,
        visit(browser, f"{url}/run?run={run.id}", listen=frames.listen, settled=False) as seen,
    ):
        plot(seen.page, "curve-loss")
        drag(seen.page, "curve-loss", 0.5, 0.9999)
        seen.page.wait_for_url("**from_step=*", timeout=60_000)
        seen.page.get_by_role("button", name="All steps").wait_for(timeout=60_000)
        seen.page.wait_for_timeout(1_000)
        first = int(parse_qs(urlsplit(seen.page.url).query)["from_step"][0])
        frames.received.clear()
        deadline = 600
        while len(news()) < updates and (deadline := deadline - 1):
            run.step += 1
            seen.page.wait_for_timeout(100)
        assert len(news()) >= updates
        for chart in ("curve-loss", "curve-gradient_norm", "curve-learning_rate"):
            assert axis_ends(seen.page, chart) == pytest.approx((first, run.step), abs=5)
        assert parse_qs(urlsplit(seen.page.url).query)["from_step"] == [str(first)]
        assert seen.errors == []


FIRST_LOST = """
const text = new TextDecoder("latin1");
window.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data }) => {
      const whole = /"seq": ?\\d+, ?"base": ?null/.exec(text.decode(data));
      if (!whole || window.lost) return;
      window.lost = true;
      const at = whole.index + whole[0].length - 4;
      new Uint8Array(data).set([57, 57, 57, 57], at); // 9999, as long as null
      const colours = text.decode(data).indexOf('"colours"');
      new Uint8Array(data).set([95], colours + 1); // a continuation has none
    });
  }
};
"""
"""Makes the first message of a board the continuation of one that the browser never had."""


def test_a_board_whose_first_message_was_replaced_on_its_way_requests_it_again(browser):
    run = spiking_run(state="finished")
    with (
        fake_collector(run) as fake,
        dashboard(fake.url, TOKEN) as url,
        visit(
            browser, f"{url}/loss?run={run.id}", listen=lambda p: p.add_init_script(FIRST_LOST)
        ) as seen,
    ):
        plot(seen.page, "loss")
        assert seen.page.evaluate("() => window.lost")
        assert seen.errors == []
