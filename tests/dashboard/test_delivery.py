"""A browser finds the server at its first request and receives compressed scripts."""

import gzip
import re
from importlib.metadata import version
from pathlib import Path

import httpx2
import pytest

from helpers import plain_http
from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_experiment import experiment_run
from helpers.fake_runs import healthy_run, spiking_run
from trainvitals_dashboard import delivery, mount
from trainvitals_dashboard.delivery import (
    ADDRESS,
    FONT_FACE,
    FONT_LINK,
    ICONS,
    MAIN,
    PAGES,
    STATIC,
    document,
    frontend_key,
    icon_font,
    reduced_icons,
)

ICON_WIDTHS = """async names => {
    await document.fonts.load('24px "Material Symbols Rounded"');
    const pen = document.createElement('canvas').getContext('2d');
    pen.font = '24px "Material Symbols Rounded"';
    return names.filter(name => Math.abs(pen.measureText(name).width - 24) > 1);
}"""
"""Which of the names are not shown as one icon, which is as wide as it is high."""
WORDS_FOR_ICONS = """() => [...document.querySelectorAll('[data-testid=stIconMaterial]')]
    .filter(e => e.getBoundingClientRect().width > 1.3 * parseFloat(getComputedStyle(e).fontSize))
    .map(e => e.textContent)"""


SENT = """() => performance.getEntriesByType('resource')
    .map(e => [e.name, e.encodedBodySize])"""
"""Address → bytes of each file that the page has loaded."""
FIRST_VISITS = {
    "": 800_000,
    "run?run=gpt-small": 800_000,
    "loss?run=gpt-small": 800_000,
    "layers?run=gpt-small": 800_000,
    "initialisation?run=gpt-small": 800_000,
    "bias?run=gpt-small": 800_000,
    "compare?run=gpt-small&run=resnet-baseline": 800_000,
    "experiments?run=deep": 800_000,
    "alerts": 800_000,
    "settings": 800_000,
    "rule?code=TV101": 800_000,
}
"""Link to a page → the most bytes that a visitor with an empty cache loads."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address():
    runs = (spiking_run(), healthy_run(), experiment_run("deep"))
    with fake_collector(*runs) as fake, dashboard(fake.url, TOKEN) as url:
        yield url


def get(url: str, **headers: str) -> httpx2.Response:
    return plain_http.get(url, headers={"Accept-Encoding": "identity", **headers})


def test_the_pages_are_those_of_the_app():
    script = Path(mount.SCRIPT).read_text()
    assert tuple(re.findall(r'url_path="(\w+)"', script)) == PAGES
    assert f'url_path="{MAIN}", default=True' in script


def test_the_address_comes_before_every_script_of_the_document():
    page = document().decode()
    assert page.index(ADDRESS) < page.index("<script") + 1
    original = (STATIC / "index.html").read_text(encoding="utf-8")
    assert page.replace(ADDRESS, "") == FONT_LINK.sub("", original)


def test_the_document_loads_no_font():
    original = (STATIC / "index.html").read_text(encoding="utf-8")
    assert len(FONT_LINK.findall(original)) == 1
    assert "woff2" not in document().decode()


def test_the_styles_name_no_font_for_text_and_keep_everything_else(address):
    [style] = re.findall(r'href="\./(static/css/index\.[^"]+\.css)"', document().decode())
    original = (STATIC / style).read_text(encoding="utf-8")
    sent = get(f"{address}/{style}", **{"Accept-Encoding": "gzip"}).text
    faces = FONT_FACE.findall(original)
    assert len(faces) == 6
    assert all("Source" in face for face in faces)
    assert "Source" not in sent
    assert "Material Symbols Rounded" in sent
    assert len(sent) == len(original) - sum(map(len, faces))


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
def test_a_deep_link_makes_no_request_that_fails(address, browser):
    with visit(browser, f"{address}/run?run=gpt-small", empty_cache=True) as seen:
        assert (seen.refused, seen.errors) == ([], [])
        seen.page.get_by_role("link", name="Layers").click()
        seen.page.wait_for_url("**/layers?run=gpt-small", timeout=60_000)
        assert (seen.refused, seen.errors) == ([], [])


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("page", "most"), FIRST_VISITS.items())
def test_a_first_visit_to_any_page_is_below_a_megabyte(page, most, address, browser):
    # A cached file has its size here too. One visit shows what a visitor's first page loads.
    with visit(browser, f"{address}/{page}", empty_cache=page == "") as seen:
        seen.page.wait_for_timeout(500)
        sent = dict(seen.page.evaluate(SENT))
        assert sum(sent.values()) < most
        assert [name for name in sent if "SyntaxHighlighter" in name] == []
        assert any("board." in name for name in sent) or page.startswith("rule")


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "page",
    [
        "",
        "/run?run=gpt-small",
        pytest.param("/layers?run=gpt-small", marks=pytest.mark.slow),
        pytest.param("/alerts", marks=pytest.mark.slow),
    ],
)
def test_the_pages_use_the_fonts_of_the_system(address, browser, page):
    shown = "e => getComputedStyle(e).fontFamily.split(',')[0]"
    with visit(browser, address + page) as seen:
        for scheme in ("light", "dark"):
            seen.page.emulate_media(color_scheme=scheme)
            seen.page.wait_for_timeout(500)
            fonts = [url for url in seen.requests if ".woff" in url]
            assert [url for url in fonts if "MaterialSymbols" not in url] == []
            assert seen.page.locator("[data-testid=stApp]").evaluate(shown) == "system-ui"
            headings = seen.page.locator("h1, h2, h3, h4").evaluate_all(f"all => all.map({shown})")
            code = seen.page.locator("code").evaluate_all(f"all => all.map({shown})")
            assert set(headings) <= {"system-ui"}
            assert set(code) <= {"ui-monospace"}


def test_the_reduced_font_of_icons_is_the_one_of_the_pinned_streamlit():
    """If this fails after an update of Streamlit: run dashboard/board/icons.py."""
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text()
    if f"streamlit=={version('streamlit')}\n" not in pins:
        pytest.skip("another Streamlit than the pinned one: the whole font is sent")
    assert [file.stem for file in ICONS.glob("*.woff2")] == [frontend_key()]


def test_the_reduced_font_is_sent_in_place_of_the_whole_one(address):
    [(path, reduced)] = reduced_icons().items()
    sent = get(address + path)
    assert sent.content == reduced
    assert len(reduced) < 0.2 * icon_font().stat().st_size
    assert sent.headers["content-type"] == "font/woff2"


def test_another_frontend_gets_the_whole_font(tmp_path, monkeypatch):
    static = tmp_path / "static"
    (static / "media").mkdir(parents=True)
    (static / "media" / "MaterialSymbols-Rounded.other.woff2").write_bytes(b"whole")
    monkeypatch.setattr(delivery, "STATIC", static)
    assert reduced_icons() == {}


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
def test_every_icon_of_the_pages_is_in_the_font(address, browser):
    """If this fails for a new icon: run dashboard/board/icons.py."""
    sources = Path(delivery.__file__).parent.rglob("*.py")
    used = {n for file in sources for n in re.findall(r":material/(\w+):", file.read_text())}
    with visit(browser, f"{address}/run?run=gpt-small") as seen:
        assert len(used) > 30
        assert seen.page.evaluate(ICON_WIDTHS, ["no_such_icon"]) == ["no_such_icon"]
        assert seen.page.evaluate(ICON_WIDTHS, sorted(used)) == []
        seen.page.get_by_test_id("stMainMenu").click()
        seen.page.get_by_text("About this rule").first.click(force=True)
        assert seen.page.get_by_test_id("stIconMaterial").count() > 10
        assert seen.page.evaluate(WORDS_FOR_ICONS) == []
