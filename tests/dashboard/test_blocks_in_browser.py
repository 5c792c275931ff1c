"""Code and tables in a real browser: copied, read on a phone, and never HTML."""

from urllib.parse import quote

import pytest

from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import (
    HOSTILE,
    VANISHING,
    failed_run,
    healthy_run,
    hostile_run,
    vanishing_run,
)
from trainvitals_dashboard.parts import blocks

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(240)]

SICK = "</code><img src=x onerror=alert(1)>\n    **bold** [link](http://evil.example)"
CUT_OFF = """all => all.flatMap(table => [...table.querySelectorAll('td')])
    .filter(cell => cell.scrollWidth > cell.clientWidth + 1
        || cell.getBoundingClientRect().right > window.innerWidth)
    .map(cell => cell.textContent)"""
"""The cells that a reader does not see completely."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address():
    runs = (vanishing_run(), healthy_run(), hostile_run(), failed_run(error=SICK))
    with fake_collector(*runs) as fake, dashboard(fake.url, TOKEN) as url:
        yield url


def code_of(page):
    found = page.locator(".code").first
    found.locator("pre").wait_for(timeout=60_000)
    found.scroll_into_view_if_needed()
    return found


def colours(found):
    return found.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")


def is_dark(colour):
    red, green, blue = (int(part) for part in colour.strip("rgb()").split(",")[:3])
    return red + green + blue < 384


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_the_fix_is_copied_with_the_keyboard(browser, address, has_clipboard):
    with visit(browser, f"{address}/run?run=sigmoid-deep", empty_cache=True) as seen:
        seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        if not has_clipboard:  # as for http:// and another machine
            seen.page.evaluate("() => { navigator.clipboard.writeText = undefined; }")
        code = code_of(seen.page)
        assert code.locator("pre").inner_text() == VANISHING["fix"]
        button = code.get_by_role("button", name="Copy the text")
        button.focus()
        seen.page.keyboard.press("Tab")
        seen.page.keyboard.press("Shift+Tab")
        assert button.evaluate("e => e.matches(':focus-visible')")
        seen.page.keyboard.press("Enter")
        code.get_by_role("status").filter(has_text="Copied").wait_for()
        assert seen.page.evaluate("() => navigator.clipboard.readText()") == VANISHING["fix"]
        assert button.evaluate("e => e.matches(':focus')")
        assert seen.errors == []


def test_the_text_is_selected_as_it_is_read(browser, address):
    with visit(browser, f"{address}/run?run=sigmoid-deep") as seen:
        code_of(seen.page).locator("pre").click(click_count=3)
        chosen = seen.page.evaluate("() => getSelection().toString().trim()")
        assert chosen == VANISHING["fix"].splitlines()[0]


@pytest.mark.parametrize("dark", [False, True])
def test_the_colours_are_those_of_the_theme(browser, address, dark):
    with visit(browser, f"{address}/run?run=sigmoid-deep", dark=dark) as seen:
        text, behind = colours(code_of(seen.page).locator("pre"))
        assert (is_dark(text), is_dark(behind)) == (not dark, dark)


def test_hostile_text_is_text(browser, address):
    with visit(browser, f"{address}/run?run=failed") as seen:
        code = code_of(seen.page)
        assert code.locator("code").evaluate("e => e.textContent") == SICK
        assert code.locator("img, a, script").count() == 0
        assert (seen.errors, seen.foreign) == ([], [])


@pytest.mark.parametrize(
    ("path", "table"),
    [
        ("bias?run=resnet-baseline", "Biases"),
        ("initialisation?run=resnet-baseline", "Initialisers"),
        (f"bias?run={quote(HOSTILE)}", "Biases"),
        ("compare?run=resnet-baseline&run=sigmoid-deep", "Verdicts"),
    ],
)
def test_a_table_is_complete_on_a_phone_and_on_a_wide_screen(browser, address, path, table):
    with visit(browser, f"{address}/{path}", width=390) as seen:
        found = seen.page.get_by_role("table", name=table)
        found.wait_for(timeout=60_000)
        for width in (390, 1600):
            seen.page.set_viewport_size({"width": width, "height": 900})
            seen.page.wait_for_timeout(300)
            assert found.get_by_role("row").count() > 1
            assert seen.page.locator(".rows table").evaluate_all(CUT_OFF) == []
            assert found.locator("img, a, script").count() == 0
        names = found.get_by_role("columnheader").all_inner_texts()
        assert names[0] in ("bias", "initialiser", "run")
        assert (seen.errors, seen.foreign) == ([], [])


def test_a_small_curve_has_a_name(browser, address):
    with visit(browser, f"{address}/bias?run=resnet-baseline", width=390) as seen:
        curve = seen.page.get_by_role("table", name="Biases").get_by_role("img").first
        curve.wait_for(timeout=60_000)
        assert curve.get_attribute("aria-label") == "drift over steps"


def test_more_than_a_hundred_rows_are_shown_when_they_are_wanted(browser):
    many = healthy_run("wide", layers=[f"encoder.{i}" for i in range(130)])
    with (
        fake_collector(many) as fake,
        dashboard(fake.url, TOKEN) as url,
        visit(browser, f"{url}/bias?run=wide") as seen,
    ):
        found = seen.page.get_by_role("table", name="Biases")
        found.wait_for(timeout=60_000)
        assert found.get_by_role("row").count() == 101
        seen.page.get_by_role("button", name="Show all 130 rows").press("Enter")
        assert found.get_by_role("row").count() == 131


def test_without_the_script_streamlit_shows_both(open_page, collector, monkeypatch, tmp_path):
    monkeypatch.setattr(blocks.board, "BUNDLE", tmp_path / "board.js")
    collector.runs = [vanishing_run(), healthy_run()]
    assert open_page("run", run="sigmoid-deep").code[0].value == VANISHING["fix"]
    [table] = open_page("bias", run="resnet-baseline").dataframe
    assert list(table.value)[:2] == ["bias", "of"]


@pytest.mark.parametrize("width", [390, 1600])
def test_a_column_is_sorted_with_the_keyboard_and_the_rows_are_downloaded(browser, address, width):
    with visit(browser, f"{address}/bias?run=resnet-baseline", width=width) as seen:
        found = seen.page.get_by_role("table", name="Biases")
        found.wait_for(timeout=60_000)
        head = found.get_by_role("columnheader").first
        names = {}
        for way in ("ascending", "descending", "none"):
            head.get_by_role("button").press("Enter")
            assert head.get_attribute("aria-sort") == way
            names[way] = found.locator("tbody td:first-child").all_inner_texts()
        assert names["ascending"] == names["descending"][::-1]
        assert names["ascending"][0].startswith("encoder.0")
        with seen.page.expect_download() as saved:
            seen.page.get_by_role("button", name="Biases: download all rows as CSV").press("Enter")
        assert saved.value.suggested_filename == "biases.csv"
        lines = saved.value.path().read_text().splitlines()
        assert lines[0].startswith('"bias","of","smallest"')
        assert len(lines) == 1 + len(names["none"])
        assert (seen.errors, seen.foreign) == ([], [])
