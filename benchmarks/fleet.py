"""Times of the page of all runs in a real browser, with a real collector.

python benchmarks/fleet.py --runs 1000

Printed are medians: from the request of the page to its first row, from a click on a run to its
curves and back (view switches), and the bytes of a visit. It needs Chromium.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parent)]

from helpers.chromium import chromium, dashboard  # noqa: E402 - found by the line above
from helpers.collector import running_collector  # noqa: E402
from scrape import run  # noqa: E402
from trainvitals.wire import encode  # noqa: E402

FIRST_ROW = ".runs tbody tr"
VISITS = 5


def measure(page, url: str) -> dict[str, list[float]]:
    """Return name → seconds or bytes of each visit."""
    found: dict[str, list[float]] = {"first paint s": [], "to a run s": [], "back s": []}
    received: list[int] = []
    page.on("response", lambda r: received.append(int(r.headers.get("content-length", 0))))
    page.on(
        "websocket",
        lambda ws: ws.on("framereceived", lambda frame: received.append(len(frame))),
    )
    for _ in range(VISITS):
        received.clear()
        began = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.locator(FIRST_ROW).first.wait_for()
        found["first paint s"].append(time.perf_counter() - began)
        page.wait_for_timeout(1_000)
        found.setdefault("bytes of a visit", []).append(float(sum(received)))
        began = time.perf_counter()
        page.locator(f"{FIRST_ROW} td.name a").first.click()
        page.get_by_text("Curves").wait_for()
        found["to a run s"].append(time.perf_counter() - began)
        page.wait_for_timeout(1_500)
        began = time.perf_counter()
        page.get_by_role("link", name="trainvitals").click()
        page.locator(FIRST_ROW).first.wait_for()
        found["back s"].append(time.perf_counter() - began)
    return found


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
        with dashboard(collector.url, collector.token) as url, chromium() as browser:
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.goto(url)
            page.locator(FIRST_ROW).first.wait_for()
            for name, values in measure(page, url).items():
                print(f"{name}: {statistics.median(values):,.2f} (largest {max(values):,.2f})")


if __name__ == "__main__":
    main()
