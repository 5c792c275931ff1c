"""Times and bytes of the page of all runs in a real browser, with a real collector.

python benchmarks/fleet.py --runs 1000

Printed are medians: from the request of the page to its first row, from a click on a run to its
curves and back (view switches), and the bytes that the network carries: of a first visit, and of a
visit with the scripts in the browser's cache. The same is printed for a Streamlit app with two
pages of one line each, which shows the share of Streamlit itself. It needs Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parent)]

from helpers.chromium import chromium  # noqa: E402 - found by the line above
from helpers.collector import running_collector  # noqa: E402
from helpers.dashboards import dashboard  # noqa: E402
from scrape import run  # noqa: E402
from trainvitals.wire import encode  # noqa: E402

FIRST_ROW = ".runs tbody tr"
SHOWN = """([selector, text]) => {
    const hosts = [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')];
    const roots = [document, ...hosts.map(host => host.shadowRoot)];
    return roots.some(root => root && [...root.querySelectorAll(selector)]
        .some(e => e.textContent.includes(text)));
}"""
"""Whether an element with a text is in the page or in a component. Asked in the page at each frame:
`Locator.wait_for` asks after 0, 20, 70, 170, 270, 770 … ms, and so adds up to half a second."""
VISITS = 5


EMPTY = """
import streamlit as st

def one():
    st.write("the first page")
    st.page_link(second, label="Go")

def two():
    st.write("the second page")
    st.page_link(first, label="Back")

first, second = st.Page(one, default=True), st.Page(two)
st.navigation([first, second], position="hidden").run()
"""


class Traffic:
    """Bytes that a page received, as the network carried them."""

    def __init__(self, page: Page) -> None:
        self.received = 0.0
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.on("Network.loadingFinished", lambda e: self._add(e["encodedDataLength"]))
        # A frame of a WebSocket is base64 if it is binary; Streamlit compresses it on the way.
        network.on(
            "Network.webSocketFrameReceived",
            lambda e: self._add(3 / 4 * len(e["response"]["payloadData"])),
        )

    def _add(self, count: float) -> None:
        self.received += count

    def taken(self) -> float:
        """Return the bytes since the last call."""
        received, self.received = self.received, 0.0
        return received


@dataclass(frozen=True)
class Site:
    """The elements that are clicked, and those that are awaited: a CSS selector and a text."""

    ready: tuple[str, str]
    link: str
    arrived: tuple[str, str]
    home: str


OURS = Site(
    (FIRST_ROW, ""),
    f"{FIRST_ROW} td.name a",
    ("section[data-key=curve-loss] canvas", ""),
    "a:has-text('trainvitals')",
)
STREAMLIT = Site(("p", "the first page"), "text=Go", ("p", "the second page"), "text=Back")


def measure(browser: Browser, url: str, site: Site) -> dict[str, list[float]]:
    """Return name → seconds or bytes of each visit; the first visit has an empty cache."""
    found: dict[str, list[float]] = {}
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    traffic = Traffic(page)
    for visit in range(VISITS + 1):
        when = "first visit" if visit == 0 else "visit"
        began = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.wait_for_function(SHOWN, arg=[*site.ready])
        found.setdefault(f"{when}: s", []).append(time.perf_counter() - began)
        page.wait_for_timeout(1_500)
        found.setdefault(f"{when}: bytes", []).append(traffic.taken())
        began = time.perf_counter()
        page.locator(site.link).first.click()
        page.wait_for_function(SHOWN, arg=[*site.arrived])
        found.setdefault(f"{when}: to a run s", []).append(time.perf_counter() - began)
        page.wait_for_timeout(1_500)
        found.setdefault(f"{when}: to a run bytes", []).append(traffic.taken())
        began = time.perf_counter()
        page.locator(site.home).first.click()
        page.wait_for_function(SHOWN, arg=[*site.ready])
        found.setdefault(f"{when}: back s", []).append(time.perf_counter() - began)
        page.wait_for_timeout(1_500)
        found.setdefault(f"{when}: back bytes", []).append(traffic.taken())
    page.close()
    return found


@contextlib.contextmanager
def empty_app(folder: Path) -> Iterator[str]:
    """Yield the address of a Streamlit app without content, served as Streamlit does it."""
    script = folder / "empty.py"
    script.write_text(EMPTY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--server.headless=true", f"--server.port={port}", "--server.address=127.0.0.1"]
    options += ["--browser.gatherUsageStats=false", "--server.fileWatcherType=none"]
    command = [sys.executable, "-m", "streamlit", "run", str(script), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Streamlit does not start")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(15)


def show(title: str, found: dict[str, list[float]]) -> None:
    print(title)
    for name, values in found.items():
        print(f"  {name}: {statistics.median(values):,.2f} (largest {max(values):,.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder, running_collector(Path(folder)) as collector:
        for number in range(runs):
            batch = run(number)
            collector.store.ingest(batch, encode(batch))
        began = time.perf_counter()
        for cursor in (None, collector.get("/api/v1/runs", limit=500).json()["next_cursor"]):
            asked = {"limit": 500} | ({"cursor": cursor} if cursor else {})
            size = len(collector.get("/api/v1/runs", **asked).content)
        print(f"500 runs from the API: {(time.perf_counter() - began) / 3:.2f} s, {size:,} bytes")
        with chromium() as browser:
            with dashboard(collector.url, collector.token) as url:
                warm_up(browser, url, OURS)
                show("trainvitals", measure(browser, url, OURS))
            with empty_app(Path(folder)) as url:
                warm_up(browser, url, STREAMLIT)
                show("an empty Streamlit app", measure(browser, url, STREAMLIT))


def warm_up(browser: Browser, url: str, site: Site) -> None:
    """Open the page once, so that the server has loaded its modules."""
    page = browser.new_page()
    page.goto(url)
    page.wait_for_function(SHOWN, arg=[*site.ready])
    page.close()


if __name__ == "__main__":
    main()
