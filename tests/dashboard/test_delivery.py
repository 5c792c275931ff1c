"""A browser finds the server at its first request and receives compressed scripts."""

import gzip
import re
from pathlib import Path

import httpx2
import pytest

from helpers.chromium import chromium, dashboard, visit
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import spiking_run
from trainvitals_dashboard import mount
from trainvitals_dashboard.delivery import ADDRESS, MAIN, PAGES, STATIC, document


@pytest.fixture(scope="module")
def address():
    with fake_collector(spiking_run()) as fake, dashboard(fake.url, TOKEN) as url:
        yield url


def get(url: str, **headers: str) -> httpx2.Response:
    return httpx2.get(url, headers={"Accept-Encoding": "identity", **headers}, trust_env=False)


def test_the_pages_are_those_of_the_app():
    script = Path(mount.SCRIPT).read_text()
    assert tuple(re.findall(r'url_path="(\w+)"', script)) == PAGES
    assert f'url_path="{MAIN}", default=True' in script


def test_the_address_comes_before_every_script_of_the_document():
    page = document().decode()
    assert page.index(ADDRESS) < page.index("<script") + 1
    assert page.replace(ADDRESS, "") == (STATIC / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", ["/", "/run?run=gpt-small", "/settings"])
def test_each_page_has_the_document(address, path):
    answer = get(address + path)
    assert answer.content == document()
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"


def test_scripts_are_compressed_for_browsers_that_accept_it_and_are_the_same(address):
    [script] = re.findall(r'src="\./(static/js/index\.[^"]+\.js)"', document().decode())
    plain = get(f"{address}/{script}")
    packed = get(f"{address}/{script}", **{"Accept-Encoding": "gzip"})
    assert packed.content == plain.content == (STATIC / script).read_bytes()
    assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, 6, mtime=0))
    assert int(packed.headers["content-length"]) < 0.4 * len(plain.content)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-type"] == "text/javascript; charset=utf-8"
    assert packed.headers["cache-control"] == plain.headers["cache-control"]


def test_what_is_not_a_file_of_streamlit_is_not_sent(address):
    for path in ("/static/../index.html.js", "/static/js/none.js", "/_stcore/none"):
        answer = get(address + path, **{"Accept-Encoding": "gzip"})
        assert "window.__streamlit" not in answer.text
    assert get(f"{address}/_stcore/health").status_code == 200


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
def test_a_deep_link_makes_no_request_that_fails_and_a_first_visit_is_small(address):
    with chromium() as browser, visit(browser, f"{address}/run?run=gpt-small") as seen:
        assert (seen.refused, seen.errors) == ([], [])
        sizes = "performance.getEntriesByType('resource').map(e => e.encodedBodySize)"
        assert sum(seen.page.evaluate(sizes)) < 2_000_000
        seen.page.get_by_role("link", name="Layers").click()
        seen.page.wait_for_url("**/layers?run=gpt-small", timeout=60_000)
        assert (seen.refused, seen.errors) == ([], [])
