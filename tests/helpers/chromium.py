"""A real Chromium that opens pages of a dashboard of its own process."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from helpers.require import require

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 30_000
PHONE_PX = 390
OPENER = "http://127.0.0.1/"
"""Answered by the tests. A site is a host, whatever the port: that of all dashboards."""


@dataclass
class Visit:
    """A page, and what it did behind its back."""

    page: Page
    errors: list[str] = field(default_factory=list)
    """Console errors and uncaught exceptions."""
    requests: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Requests that were answered with an error."""

    @property
    def foreign(self) -> list[str]:
        """Requests that left this machine."""
        here = {"127.0.0.1", "localhost", None}
        return [url for url in self.requests if urlsplit(url).hostname not in here]

    def settle(self, wait_ms: int = WAIT_MS) -> None:
        """Wait until the script has run and the charts are drawn."""
        app = self.page.locator("[data-testid=stApp]")
        app.wait_for(timeout=wait_ms)
        deadline = time.monotonic() + wait_ms / 1000
        quiet = 0
        while quiet < 4:
            assert time.monotonic() < deadline, "the page does not come to rest"
            running = app.get_attribute("data-test-script-state") == "running"
            shown = self.page.locator("[data-testid=stMarkdown], [data-testid=stAlert]").count()
            quiet = 0 if running or not shown else quiet + 1
            self.page.wait_for_timeout(150)

    def on_a_phone(self) -> None:
        """Make the page dark and as wide as a phone, and wait until it has settled."""
        self.page.emulate_media(color_scheme="dark")
        self.page.set_viewport_size({"width": PHONE_PX, "height": 900})
        self.page.wait_for_timeout(200)
        self.settle()

    def text(self) -> str:
        """Return what a person reads on the page. inner_text leaves out shadow roots."""
        tables = self.page.locator(".runs table").all_inner_texts()
        return "\n".join([self.page.locator("[data-testid=stApp]").inner_text(), *tables])


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Yield the browser of this process; without Chromium the test is skipped, or fails in CI.

    Contexts that were made for it are closed afterwards.
    """
    browser, loop = _started(require("chromium"))
    asyncio._set_running_loop(loop)
    try:
        yield browser
    finally:
        for context in browser.contexts:
            if all(page.url != OPENER for page in context.pages):
                context.close()
        # Playwright leaves its event loop marked as running; another one could not run in this
        # thread, such as that of an asynchronous test.
        asyncio._set_running_loop(None)


@cache
def _started(path: str) -> tuple[Browser, asyncio.AbstractEventLoop]:
    """Return a browser that ends with this process, and Playwright's event loop."""
    playwright = sync_playwright().start()
    loop = asyncio.get_running_loop()
    browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)

    def stop() -> None:
        asyncio._set_running_loop(loop)
        browser.close()
        playwright.stop()

    atexit.register(stop)
    return browser, loop


@contextlib.contextmanager
def visit(
    browser: Browser,
    url: str,
    *,
    width: int = 1600,
    dark: bool = False,
    empty_cache: bool = False,
    listen: Callable[[Page], object] = lambda _: None,
    settled: bool = True,
) -> Iterator[Visit]:
    """Yield the page at `url`, once it has settled; `listen` gets it before it is opened.

    A page that is refreshed more often than every second never settles.

    The page shares cached scripts with other visits of `browser` unless `empty_cache`, but no
    cookie and no local storage.
    """
    with (_first_page if empty_cache else _next_page)(browser) as page:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme="dark" if dark else "light")
        seen = Visit(page)
        page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
        page.on("response", lambda r: r.status >= 400 and seen.refused.append(r.url))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        listen(page)
        page.goto(url, timeout=WAIT_MS)
        if settled:
            seen.settle()
        yield seen


@contextlib.contextmanager
def _first_page(browser: Browser) -> Iterator[Page]:
    """Yield a page of a profile of its own."""
    context = browser.new_context()
    try:
        yield context.new_page()
    finally:
        context.close()


@contextlib.contextmanager
def _next_page(browser: Browser) -> Iterator[Page]:
    """Yield a page in the renderer process of the visits before it.

    That process has compiled the scripts of the app already, which takes 2 s of CPU time. A page
    opened by another page of the same site shares its process; a new tab does not.
    """
    opener = _opener(browser)
    with opener.expect_popup() as opened:
        opener.evaluate("() => { window.open('about:blank'); }")
    page = opened.value
    try:
        yield page
    finally:
        if not page.is_closed():
            page.evaluate("() => localStorage.clear()")
            page.close()
        opener.context.clear_cookies()


def _opener(browser: Browser) -> Page:
    """Return the page that opens the others; it is made at the first call."""
    for context in browser.contexts:
        for page in context.pages:
            if page.url == OPENER:
                return page
    page = browser.new_context().new_page()
    page.route(OPENER, lambda route: route.fulfill(content_type="text/html", body=""))
    page.goto(OPENER)
    return page
