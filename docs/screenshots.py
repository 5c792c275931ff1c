"""Take the documents' pictures of the dashboard: `python docs/screenshots.py`.

The runs, the collector and the dashboard are those of `trainvitals demo`; the browser is Chromium.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))

from helpers.chromium import chromium, visit  # noqa: E402 - found by the line above

PICTURES = {
    "fleet": ("/", 1600, 420, False),
    "finding": ("/run?run=sigmoid-stack", 1280, 1060, False),
    "layers": ("/layers?run=sigmoid-stack", 1280, 1060, True),
    "phone": ("/run?run=sigmoid-stack", 390, 1100, True),
}
"""Name → path, width, height, dark."""


@contextlib.contextmanager
def demo() -> Iterator[str]:
    """Run the demo, and yield the address of its dashboard after its trainings."""
    command = [sys.executable, "-u", "-m", "trainvitals.cli", "demo", "--port", "0"]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        url = ""
        for line in process.stdout or ():
            if found := re.search(r"dashboard at (http://[\w.:]+)", line):
                url = found[1]
            if "The collector's diagnoses" in line:
                break
        try:
            yield url
        finally:
            process.terminate()


def main() -> None:
    """Write each picture to docs/images."""
    IMAGES.mkdir(exist_ok=True)
    with demo() as url, chromium() as browser:
        for name, (path, width, height, dark) in PICTURES.items():
            with visit(browser, url + path, width=width, dark=dark) as seen:
                seen.page.set_viewport_size({"width": width, "height": height})
                seen.settle()
                seen.page.wait_for_timeout(1_000)
                seen.page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
