"""The site of the documents: `mkdocs build --strict`, and what a browser shows of it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from helpers.chromium import chromium
from helpers.require import require_package

ROOT = Path(__file__).parents[2]
PAGES = (
    "index.html",
    "frameworks.html",
    "rules/index.html",
    "faq.html",
    "clusters.html",
    "rules/TV201.html",
    "how-it-works.html",
)


def built(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of the checkout `root` in `site`."""
    require_package("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = built(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@contextlib.contextmanager
def opened(browser, url, width=1600, scheme="light"):
    """Yield the page, and the list of its errors and of its requests to other hosts."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page, faults = context.new_page(), []
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda r: r.url.startswith(("http://127.0.0.1:", "data:")) or faults.append(r.url),
    )
    try:
        page.goto(url)
        yield page, faults
    finally:
        context.close()


def copy_of_the_documents(root: Path) -> Path:
    """Copy the documents to `root`, and link what they link to; return `root`."""
    for name in (
        "mkdocs.yml",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "docker-compose.yml",
    ):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "docs", root / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("deploy", "tests", "examples", "benchmarks", "skills", "hooks"):
        (root / name).symlink_to(ROOT / name)
    return root


def test_every_page_of_the_documents_is_in_the_site(site):
    pages = {p.relative_to(ROOT / "docs").with_suffix(".html") for p in ROOT.glob("docs/**/*.md")}
    shown = {Path(str(page).replace("README", "index")) for page in pages}
    assert {page for page in shown if not (site / page).exists()} == set()


@pytest.fixture(scope="module")
def faulty_build(tmp_path_factory):
    """A build of the documents with two links that lead nowhere and an unlisted page."""
    root = copy_of_the_documents(tmp_path_factory.mktemp("faulty"))
    with (root / "docs" / "limits.md").open("a") as page:
        page.write("\n[gone](no-such-page.md), [gone](../deploy/no-such-file.yml)\n")
    (root / "docs" / "unlisted.md").write_text("# Unlisted\n")
    done = built(root, root / "site")
    assert done.returncode == 1
    assert "Aborted with 3 warnings in strict mode" in done.stdout  # each of them would abort it
    return done


def test_a_link_that_leads_nowhere_fails_the_build(faulty_build):
    assert re.findall(r"'(\S*no-such-\S+)'", faulty_build.stderr) == [
        "no-such-page.md",
        "files/deploy/no-such-file.yml.txt",
    ]


def test_a_page_that_is_not_in_the_navigation_fails_the_build(faulty_build):
    assert "- unlisted.md" in faulty_build.stderr


def test_no_page_loads_anything_from_another_host(site):
    loads = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(https?:[^"]+)"')
    styles = re.compile(
        r'<link\b[^>]*\brel="(?:stylesheet|preconnect|icon)"[^>]*href="(https?:[^"]+)'
    )
    styles_reversed = re.compile(r'<link\b[^>]*href="(https?:[^"]+)"[^>]*\brel="stylesheet"')
    texts = [page.read_text() for page in site.rglob("*.html")]
    found = [u for t in texts for p in (loads, styles, styles_reversed) for u in p.findall(t)]
    assert (len(texts) > 100, found) == (True, [])


@pytest.mark.needs_chromium
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1600, "light"),
        (390, "dark"),
        pytest.param(1600, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_a_page_fits_its_window_and_stays_on_this_host(browser, address, width, scheme):
    with opened(browser, f"{address}/{PAGES[-1]}", width, scheme) as (page, faults):
        for path in PAGES:
            page.goto(f"{address}/{path}")
            width_seen = page.evaluate("document.documentElement.scrollWidth")
            colours = page.locator("body").get_attribute("data-md-color-scheme")
            wanted = "slate" if scheme == "dark" else "default"
            assert (path, width_seen, colours, faults) == (path, width, wanted, [])


@pytest.mark.needs_chromium
def test_the_search_finds_the_page_of_a_rule(browser, address):
    with opened(browser, f"{address}/index.html") as (page, faults):
        page.keyboard.press("s")
        page.keyboard.type("dead relu")
        first = page.locator(".md-search-result__link").first
        first.wait_for(timeout=20_000)
        assert "/rules/TV201.html" in first.get_attribute("href")
        assert faults == []
