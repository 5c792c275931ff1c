"""The page shows the whole diagnosis, loads nothing, runs nothing, and fits a phone."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.chromium import chromium
from trainvitals.api.schema import (
    Checkup,
    Diagnosis,
    Evidence,
    Finding,
    Initialiser,
    PropagatedLayer,
    Severity,
    State,
    Verdict,
)
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.history import Series
from trainvitals.diagnosis.registry import all_rules
from trainvitals.report import as_html
from trainvitals.report.curves import page_curves
from trainvitals.report.html import prose
from trainvitals.report.page_file import written
from trainvitals.report.svg import POINTS_MAX, Line, Marker, plot, reduce

HOSTILE = "</style><script>alert(1)</script><img src=//x.example/p>\x1b[31m"
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Collects the elements of a page, and fails at an element that is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def finding(**fields):
    given = {
        "rule": "dead_relu",
        "code": "TV201",
        "severity": Severity.ERROR,
        "where": "encoder.3",
        "since_step": 5,
        "summary": "92 % of the units are dead.",
        "evidence": (Evidence(quantity="dead share", seen=0.92, limit=0.5, direction="above"),),
        "why": "Nothing revives `them`.",
        "advice": "- Lower the learning rate.\n- Use GELU.",
        "fix": "a < b\n    c",
        "stream": "activation",
        "statistic": "dead_share",
    }
    return Finding(**{**given, **fields})


def run(*others, **fields):
    first = finding(**fields)
    return Diagnosis(
        run="r1",
        step=99,
        verdict=Verdict.ERROR,
        headline=first,
        findings=(first, *others),
        health=0.3,
    )


def series(values):
    return Series(np.arange(len(values)), np.asarray(values, np.float32))


CURVES = {
    ("activation", "dead_share", "encoder.3"): series([0.1] * 50 + [0.9] * 50),
    ("scalar", "loss", ""): series(np.linspace(2, 1, 100)),
    ("scalar", "loss/validation", ""): series(np.linspace(2, 1.5, 100)),
    ("scalar", "learning_rate", ""): series([0.1] * 100),
}
CHECKUP = Diagnosis(
    verdict=Verdict.HEALTHY,
    checkup=Checkup(
        batches=4,
        initialisers={"0.weight": Initialiser(name="he_normal", confidence=0.98)},
        propagation=tuple(
            PropagatedLayer(depth=i, layer=f"layer.{i}", S=0.5**i, M=0.1, gradient_rms=0.1)
            for i in range(6)
        ),
        chi=0.25,
    ),
)


def test_it_shows_verdict_evidence_reason_advice_and_fix():
    page = as_html(run(), CURVES, name="calm-otter-17")
    assert "<h1>calm-otter-17</h1>" in page
    assert '<td class="n">0.92</td><td class="dim">reported above 0.5</td>' in page
    assert "<p>Nothing revives <code>them</code>.</p>" in page
    assert "<ul><li>Lower the learning rate.</li><li>Use GELU.</li></ul>" in page
    assert "<pre><code>a &lt; b\n    c</code></pre>" in page


def test_the_curves_are_drawn_with_the_step_of_the_finding():
    page = as_html(run(), CURVES)
    assert page.count("<svg") == 3  # evidence, loss with validation, learning rate
    assert "Dashed: TV201 at step 5" in page
    assert "loss/validation" in page


def test_a_resolved_finding_has_its_own_section():
    page = as_html(run(finding(state=State.RESOLVED, last_step=40, where="b")))
    assert page.index("<h2>Resolved</h2>") > page.index("<h2>Findings</h2>")
    assert "resolved; last seen at step 40" in page


def test_numbers_that_are_older_than_the_diagnosis_are_said_to_be():
    page = as_html(run(finding(last_step=99, where="b"), last_step=31))
    assert "92 % of the units are dead. (numbers of step 31)" in page  # in the verdict
    assert "at encoder.3 since step 5, numbers of step 31</p>" in page
    assert "at b since step 5</p>" in page


def test_a_checkup_shows_initialisers_and_propagation():
    page = as_html(CHECKUP)
    assert "<td>0.weight</td><td>he_normal</td><td>98 %</td>" in page
    assert "Signal over depth" in page
    assert "Gradient RMS over depth" in page
    assert "<td>layer.5</td><td>0.0312</td>" in page


def test_names_are_escaped_and_control_characters_removed():
    page = as_html(
        run(where=HOSTILE, summary=HOSTILE, rule=HOSTILE, fix=HOSTILE, code=HOSTILE),
        {("scalar", f"loss/{HOSTILE}", ""): series([1.0, 2.0])},
        name=HOSTILE,
    )
    reader = Reader(page)
    assert not {"script", "img", "link", "iframe"} & set(reader.seen)
    assert "\x1b" not in page


@given(st.text())
def test_any_text_gives_a_page_whose_elements_are_closed(text):
    Reader(as_html(run(where=text, advice=text, why=f"- {text}"), name=text))


def test_it_has_no_script_and_no_address():
    page = as_html(run(), CURVES)
    assert "default-src 'none'" in page
    assert not re.search(r"<script|https?:|url\(|@import| on\w+=", page)
    assert not {"src", "href"} & {name for name, _ in Reader(page).attributes}


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_rule_has_a_page_for_its_example(rule):
    history = rule.sick()
    diagnosis = diagnose(history, Engine([rule]).examine(history), run="demo")
    page = as_html(diagnosis, page_curves(history, diagnosis))
    Reader(page)
    assert rule.code in page


def test_prose_keeps_paragraphs_lists_and_code():
    assert prose("One.\n\n- `a`\n- b\nTwo.") == (
        "<p>One.</p><ul><li><code>a</code></li><li>b</li></ul><p>Two.</p>"
    )


def line(values):
    y = np.asarray(values, float)
    return Line("a", np.arange(len(y), dtype=float), y)


def test_a_spike_of_one_step_is_drawn():
    values = np.ones(100_000)
    values[54_321] = 9.0
    reduced = reduce(line(values))
    assert len(reduced.x) <= 2 * POINTS_MAX
    assert 54_321 in reduced.x


def test_a_point_that_is_infinite_is_a_cross_and_the_line_has_a_gap():
    drawn = plot([line([1, 2, np.inf, 2, 1])], title="t", x_name="step")
    assert drawn.count("×") == 1
    assert drawn.count("M") >= 2
    assert "nan" not in drawn.lower()
    assert "inf" not in drawn.lower()


def test_a_curve_over_many_decades_has_a_logarithmic_axis():
    assert ">1e−6<" in plot([line(np.logspace(-6, 2, 50))], title="t", x_name="step")


def test_nothing_finite_is_no_image():
    assert plot([line([np.nan, np.inf])], title="t", x_name="step") == ""
    assert plot([], title="t", x_name="step") == ""


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_any_curve_can_be_drawn(values):
    drawn = plot([line(values)], title="t", x_name="step", markers=[Marker(0, "m", "error")])
    assert "nan" not in drawn.partition("</title>")[2].lower().replace("&nan", "")
    if drawn:
        Reader(drawn)


def test_a_folder_gets_a_file_named_after_the_run(tmp_path):
    assert written("x", f"{tmp_path}/new/", "r1") == tmp_path / "new" / "r1.html"
    assert written("x", str(tmp_path / "page.html"), "r1").read_text() == "x"


@pytest.mark.needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
@pytest.mark.parametrize("diagnosis", [run(where="a" * 200), CHECKUP], ids=["run", "checkup"])
def test_in_a_browser_it_requests_nothing_and_fits_the_window(tmp_path, width, dark, diagnosis):
    file = tmp_path / "page.html"
    file.write_text(as_html(diagnosis, CURVES), encoding="utf-8")
    requests, errors = [], []
    with chromium() as browser:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(file.as_uri())
        across = page.evaluate("document.documentElement.scrollWidth")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        context.close()
    assert requests == [file.as_uri()]
    assert errors == []
    assert across <= width
    assert background == ("rgb(15, 21, 25)" if dark else "rgb(255, 255, 255)")
