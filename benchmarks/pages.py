"""Times and bytes of each page in a real browser, with 1,000 runs and a run of 10 million points.

make bench-pages (python benchmarks/pages.py --runs 1000 --pages fleet run)

The collector and the dashboard are processes of their own, started by their commands. The large run
gets 10 steps a second and 20 of the others one step a second while all is measured. Printed for
each page, as Markdown: the median time from the request to the first chart or table, with an empty
cache; from a click to it; the bytes that the network carries for both; the bytes of a live update,
which is one run of the page's script with all of its messages; and the time from the end of a drag
to the redrawn chart, with the part between the request and the answer. It needs Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parent)]

from big_run import BIG, OTHER, TENSORS, Sender, fill  # noqa: E402 - found by the line above
from fleet import FIRST_ROW, SHOWN, Traffic  # noqa: E402
from fleet_tabs import service  # noqa: E402
from helpers.board import drag, plot, run_sizes  # noqa: E402
from helpers.chromium import chromium  # noqa: E402

VISITS = 5
LIVE_S = 15
SETTLED_MS = 1_000
WAIT_MS = 60_000
SIZE = {"width": 1600, "height": 1000}
TIMES = """
window.zoom = {};
addEventListener("mouseup", () => { window.zoom = { released: performance.now() }; }, true);
const text = new TextDecoder("latin1");
window.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", (event) => {
      const zoom = window.zoom;
      if (zoom.asked && !zoom.answered && /"range": ?\\[/.test(text.decode(event.data)))
        zoom.answered = performance.now();
    });
  }
  send(data) {
    if (window.zoom.released && !window.zoom.asked) window.zoom.asked = performance.now();
    super.send(data);
  }
};
const clear = CanvasRenderingContext2D.prototype.clearRect;
CanvasRenderingContext2D.prototype.clearRect = function (...box) {
  if (window.zoom.answered && !window.zoom.drawn) window.zoom.drawn = performance.now();
  clear.apply(this, box);
};
"""
"""Notes the times of a zoom: end of the drag, request, answer, and the first drawing after that."""

CLICKED = "addEventListener('click', () => { window.clicked = performance.now(); }, true);"


@dataclass(frozen=True)
class View:
    """A page: its URL, what is awaited there, how a click leads to it, and what is zoomed."""

    path: str
    ready: str
    """CSS selector of the first chart or table."""
    before: str
    """URL of the page with the click."""
    before_ready: str
    click: Callable[[Page], object]
    zoomed: str = ""
    """Key of a chart; none for a page without a range of steps."""


def chart(key: str) -> str:
    return f"section[data-key^={key}] canvas"


def link(name: str) -> Callable[[Page], object]:
    return lambda page: page.get_by_role("link", name=name, exact=True).first.click()


def choose_tensor(page: Page) -> None:
    page.get_by_role("combobox", name="Tensor").click()
    page.get_by_role("option").nth(3).click()


def choose_other(page: Page) -> None:
    page.get_by_role("combobox", name="Runs").click()
    page.get_by_role("option", name=OTHER).first.click()


RUN = f"/run?run={BIG}"
LAYERS = f"/layers?run={BIG}"


def of_run(path: str, key: str, name: str, *, zoomed: bool = True) -> View:
    """Return a page with a link on the page of the run."""
    at = f"/{path}?run={BIG}"
    return View(at, chart(key), RUN, chart("curve-loss"), link(name), key if zoomed else "")


VIEWS = {
    "fleet": View("/", FIRST_ROW, RUN, chart("curve-loss"), link("trainvitals")),
    "run": View(RUN, chart("curve-loss"), "/", FIRST_ROW, link(BIG), "curve-loss"),
    "layers": of_run("layers", "heat", "Layers"),
    "tensor": View(
        f"{LAYERS}&place={TENSORS[0].name}",
        chart("detail"),
        LAYERS,
        chart("heat"),
        choose_tensor,
        "detail-weight-l2",
    ),
    "bias": of_run("bias", "bias", "Bias"),
    "initialisation": of_run("initialisation", "signal", "Initialisation", zoomed=False),
    "loss": of_run("loss", "loss", "Loss"),
    "compare": View(
        f"/compare?run={BIG}&run={OTHER}",
        chart("compare-loss"),
        f"/compare?run={BIG}",
        "[data-testid=stAlert]",
        choose_other,
        "compare-loss",
    ),
}


@dataclass
class Found:
    """What was measured of one page; times in seconds, sizes in bytes."""

    first_s: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    switch_s: list[float] = field(default_factory=list)
    switch_bytes: list[float] = field(default_factory=list)
    live_bytes: list[float] = field(default_factory=list)
    zoom_s: list[float] = field(default_factory=list)
    zoom_server_s: list[float] = field(default_factory=list)


def shown(page: Page, selector: str) -> float:
    """Wait for an element, which the page itself looks for at each frame; return the page's ms."""
    found = f"given => ({SHOWN})(given) && performance.now()"
    return float(page.wait_for_function(found, arg=[selector, ""], timeout=WAIT_MS).json_value())


@contextlib.contextmanager
def first_page(browser: Browser) -> Iterator[Page]:
    """Yield a page of a profile of its own, with an empty cache."""
    context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]  # two numbers
    try:
        yield context.new_page()
    finally:
        context.close()


def first_visits(browser: Browser, url: str, view: View, found: Found) -> None:
    for _ in range(VISITS):
        with first_page(browser) as page:
            traffic = Traffic(page)
            began = time.perf_counter()
            page.goto(url + view.path, wait_until="commit")
            shown(page, view.ready)
            found.first_s.append(time.perf_counter() - began)
            page.wait_for_timeout(SETTLED_MS)
            found.first_bytes.append(traffic.taken())


def switches(browser: Browser, url: str, view: View, found: Found) -> None:
    """Click to the page; the browser has the scripts already."""
    with first_page(browser) as page:
        page.add_init_script(CLICKED)
        traffic = Traffic(page)
        for visit in range(VISITS + 1):
            page.goto(url + view.before)
            shown(page, view.before_ready)
            page.wait_for_timeout(SETTLED_MS)
            traffic.taken()
            view.click(page)
            took = (shown(page, view.ready) - page.evaluate("() => window.clicked")) / 1000
            page.wait_for_timeout(SETTLED_MS)
            if visit:  # the first one loads scripts
                found.switch_s.append(took)
                found.switch_bytes.append(traffic.taken())


def live_updates(browser: Browser, url: str, view: View, found: Found) -> None:
    frames: list[bytes] = []

    def keep(frame: bytes | str) -> None:
        if isinstance(frame, bytes):
            frames.append(frame)

    with first_page(browser) as page:
        page.on("websocket", lambda socket: socket.on("framereceived", keep))
        page.goto(url + view.path)
        shown(page, view.ready)
        page.wait_for_timeout(2 * SETTLED_MS)
        frames.clear()
        page.wait_for_timeout(1000 * LIVE_S)
        found.live_bytes += run_sizes(frames)


def dragged(page: Page, key: str, first: float, last: float) -> None:
    """Drag over a chart or the heat-map, from and to a share of its width."""
    if key != "heat":
        plot(page, key).locator(".u-over").wait_for(timeout=WAIT_MS)
        drag(page, key, first, last)
        return
    box = page.locator(chart(key)).first.bounding_box()
    if box is None:
        raise RuntimeError("the heat-map is not visible")
    y = box["y"] + 60
    page.mouse.move(box["x"] + box["width"] * first, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * last, y, steps=5)
    page.mouse.up()


def zooms(browser: Browser, url: str, view: View, found: Found) -> None:
    with first_page(browser) as page:
        page.add_init_script(TIMES)
        page.goto(url + view.path)
        shown(page, view.ready)
        page.wait_for_timeout(SETTLED_MS)
        for i in range(VISITS + 1):
            # Another range each time: the dashboard keeps the answers.
            dragged(page, view.zoomed, 0.4 + 0.01 * i, 0.7 + 0.01 * i)
            page.wait_for_function("() => window.zoom.drawn", timeout=WAIT_MS)
            times = page.evaluate("() => window.zoom")
            if i:
                found.zoom_s.append((times["drawn"] - times["released"]) / 1000)
                found.zoom_server_s.append((times["answered"] - times["asked"]) / 1000)
            page.wait_for_timeout(SETTLED_MS)
            page.get_by_role("button", name="All steps").click()
            page.wait_for_timeout(SETTLED_MS)


def line(name: str, found: Found) -> str:
    """Return a row of the table."""

    def middle(values: list[float], unit: str) -> str:
        if not values:
            return "–"
        value, largest = statistics.median(values), max(values)
        if unit == "ms":
            return f"{1000 * value:,.0f} ms"
        if unit == "s":
            return f"{value:.2f} s ({largest:.2f})"
        return f"{value / 1000:,.0f} KB" if unit == "KB" else f"{value:,.0f} B ({largest:,.0f})"

    cells = (
        name,
        middle(found.first_s, "s"),
        middle(found.first_bytes, "KB"),
        middle(found.switch_s, "s"),
        middle(found.switch_bytes, "KB"),
        middle(found.live_bytes, "B"),
        middle(found.zoom_s, "ms"),
        middle(found.zoom_server_s, "ms"),
    )
    return f"| {' | '.join(cells)} |"


HEAD = """\
| page | first chart, empty cache | bytes | after a click | bytes | live update | zoom | answer |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--pages", nargs="+", choices=list(VIEWS), default=list(VIEWS))
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS_OF), default=list(PARTS_OF), help="what to measure"
    )
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        now = fill(home, asked.runs)
        collector = stack.enter_context(service("serve", home))
        token = (home / "token").read_text().strip()
        sender = Sender(collector.url, token, asked.runs, now)
        sender.start()
        stack.callback(sender.stop.set)
        board = stack.enter_context(service("dashboard", home, "--collector", collector.url))
        browser = stack.enter_context(chromium())
        for name in asked.pages:  # the processes load their modules
            with first_page(browser) as page:
                page.goto(board.url + VIEWS[name].path)
                shown(page, VIEWS[name].ready)
        print(HEAD, flush=True)
        for name in asked.pages:
            view, found = VIEWS[name], Found()
            for part in asked.parts:
                if part != "zoom" or view.zoomed:
                    PARTS_OF[part](browser, board.url, view, found)
            sender.check()
            print(line(name, found), flush=True)


PARTS_OF = {"first": first_visits, "click": switches, "live": live_updates, "zoom": zooms}


if __name__ == "__main__":
    main()
