"""Take the documents' pictures of the dashboard: `python docs/screenshots.py`.

The runs are made up (tests/helpers/fake_runs.py), the dashboard and the browser are real.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))

from helpers.chromium import chromium, dashboard, visit  # noqa: E402 - found by the line above
from helpers.fake_collector import TOKEN, fake_collector  # noqa: E402
from helpers.fake_runs import (  # noqa: E402
    blind_run,
    failed_run,
    healthy_run,
    lost_run,
    spiking_run,
    vanishing_run,
    young_run,
)

PICTURES = {
    "fleet": ("/", 1600, 560, False),
    "finding": ("/run?run=sigmoid-deep", 1280, 1060, False),
    "layers": ("/layers?run=sigmoid-deep&place=encoder.4.weight", 1280, 1060, True),
    "phone": ("/run?run=sigmoid-deep", 390, 1100, True),
}
"""Name → path, width, height, dark."""


def main() -> None:
    """Write each picture to docs/images."""
    IMAGES.mkdir(exist_ok=True)
    runs = (
        vanishing_run(),
        spiking_run(),
        healthy_run(),
        lost_run("vit-b16"),
        failed_run("resnet-amp", error="RuntimeError: CUDA error: out of memory"),
        blind_run("compiled"),
        young_run("warm-up"),
        *(healthy_run(f"sweep-{i}", step=150 + 40 * i) for i in range(5)),
    )
    with (
        fake_collector(*runs) as collector,
        dashboard(collector.url, TOKEN) as url,
        chromium() as browser,
    ):
        for name, (path, width, height, dark) in PICTURES.items():
            with visit(browser, url + path, width=width, dark=dark) as seen:
                seen.page.set_viewport_size({"width": width, "height": height})
                seen.settle()
                seen.page.wait_for_timeout(1_000)
                seen.page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
