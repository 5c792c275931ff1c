"""The chart board of a page in a real browser: where its charts are, what they say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Locator, Page
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg


def plot(page: Page, chart: str) -> Locator:
    """Return the plot of a chart, scrolled into view. Playwright looks into shadow roots."""
    found = page.locator(f"section[data-key^='{chart}'] .plot").first
    found.locator("canvas").wait_for(timeout=60_000)
    found.scroll_into_view_if_needed()
    return found


def area(page: Page, chart: str) -> dict[str, float]:
    """Return the box between the axes of a chart."""
    box = plot(page, chart).locator(".u-over").bounding_box()
    assert box is not None
    return box


def drag(page: Page, chart: str, first: float, last: float) -> None:
    """Drag over a chart, from and to a share of its width."""
    box = area(page, chart)
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * first, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * last, y, steps=5)
    page.mouse.up()


def hover(page: Page, chart: str, at: float) -> None:
    """Move the cursor to a share of the width of a chart."""
    box = area(page, chart)
    page.mouse.move(box["x"] + box["width"] * at, box["y"] + box["height"] / 2)


def said(page: Page, chart: str) -> str:
    """Return what a screen reader says of a chart: its name, the step and the values there."""
    return plot(page, chart).get_attribute("aria-label") or ""


def says(page: Page, chart: str, pattern: str) -> None:
    """Wait until what a screen reader says of a chart contains the pattern."""
    page.wait_for_function(
        "([label, pattern]) => RegExp(pattern).test(label.getAttribute('aria-label') ?? '')",
        arg=[plot(page, chart).element_handle(), pattern],
    )


def header(page: Page, chart: str) -> str:
    """Return the text above a chart."""
    return page.locator(f"section[data-key^='{chart}'] header").first.inner_text()


def pixel(page: Page, chart: str, at: float) -> tuple[int, int, int, int]:
    """Return the colour (RGBA) of a chart near the top of its plot, at a share of its width."""
    found = (
        plot(page, chart)
        .locator("canvas")
        .evaluate(
            """(canvas, at) => {
            const over = canvas.parentElement.querySelector(".u-over");
            const left = canvas.width / canvas.clientWidth;
            const x = (over.offsetLeft + over.clientWidth * at) * left;
            const y = (over.offsetTop + 6) * left;
            return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
        }""",
            at,
        )
    )
    red, green, blue, alpha = found
    return red, green, blue, alpha


def drawn_in(page: Page, chart: str, colour: str) -> int:
    """Return the number of pixels of a chart that have a colour such as #0f766e."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    found = (
        plot(page, chart)
        .locator("canvas")
        .evaluate(
            """(canvas, [r, g, b]) => {
            const pen = canvas.getContext("2d");
            const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
            let found = 0;
            for (let i = 0; i < data.length; i += 4) {
                if (data[i] === r && data[i + 1] === g && data[i + 2] === b) found += 1;
            }
            return found;
        }""",
            rgb,
        )
    )
    return int(found)


def axis_ends(page: Page, chart: str) -> tuple[float, float]:
    """Return the first and last step that are drawn, read by the keys Home and End."""
    ends = []
    for key in ("Home", "End"):
        plot(page, chart).press(key)
        words = said(page, chart).split(". ")[1].split(":")[0].split()
        ends.append(float((words[1] if key == "Home" else words[-1]).replace(",", "")))
    plot(page, chart).press("Escape")
    return ends[0], ends[1]


class Frames:
    """The messages that a page received, also those of boards."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def listen(self, page: Page) -> None:
        """Keep what the page receives from now on."""
        page.on("websocket", lambda ws: ws.on("framereceived", self._keep))

    def _keep(self, frame: bytes | str) -> None:
        if isinstance(frame, bytes):
            self.received.append(frame)


def board_messages(frames: list[bytes]) -> list[dict[str, Any]]:
    """Return the messages to boards among the frames of a WebSocket, in order."""
    found = []
    for frame in frames:
        start = frame.find(b'{"seq"')
        if start >= 0:
            text = frame[start:].decode(errors="replace")
            found.append(json.JSONDecoder().raw_decode(text)[0])
    return found


@dataclass(frozen=True)
class Update:
    """One message to a board, and what the run of the script that sent it sent for it."""

    message: dict[str, Any]
    size: int
    """Bytes of the run's frames, without those of the messages to other boards."""


def updates(frames: list[bytes]) -> list[Update]:
    """Return the messages to boards in order, of the runs of the script that are complete.

    A page with several refreshed parts has several runs at each refresh, one or more parts in
    each. A time limit would count parts of the runs before and after an update.
    """
    found: list[Update] = []
    of_run: list[bytes] | None = None
    for frame in frames:
        kind = ForwardMsg.FromString(frame).WhichOneof("type")
        if kind == "new_session":
            of_run = []
        if of_run is None:
            continue  # the rest of a run that began before the first frame
        of_run.append(frame)
        if kind == "script_finished":
            boards = [(m, len(f)) for f in of_run for m in board_messages([f])]
            rest = sum(map(len, of_run)) - sum(size for _, size in boards)
            found += [Update(message, rest + size) for message, size in boards]
            of_run = None
    return found


def run_sizes(frames: list[bytes]) -> list[int]:
    """Return the bytes of all frames of each complete run of the script, in order."""
    sizes: list[int] = []
    size: int | None = None
    for frame in frames:
        kind = ForwardMsg.FromString(frame).WhichOneof("type")
        if kind == "new_session":
            size = 0
        if size is None:
            continue  # the rest of a run that began before the first frame
        size += len(frame)
        if kind == "script_finished":
            sizes.append(size)
            size = None
    return sizes


def part_sizes(frames: list[bytes]) -> list[int]:
    """Return the bytes of each refreshed part of each complete run of the script.

    A busy server refreshes several parts in one run; what is common to them counts for each.
    """
    sizes: list[int] = []
    common, parts = -1, dict[str, int]()
    for frame in frames:
        message = ForwardMsg.FromString(frame)
        kind = message.WhichOneof("type")
        if kind == "new_session":
            common, parts = 0, {}
        if common < 0:
            continue  # the rest of a run that began before the first frame
        part = message.delta.fragment_id if kind == "delta" else ""
        if part:
            parts[part] = parts.get(part, 0) + len(frame)
        else:
            common += len(frame)
        if kind == "script_finished":
            sizes += [common + size for size in parts.values()]
            common = -1
    return sizes
