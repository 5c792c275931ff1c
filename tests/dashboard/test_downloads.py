"""A report is downloaded as HTML, curves as CSV and Parquet, a chart as a PNG file."""

import csv
import io

import pyarrow.parquet as pq
import pytest

from helpers.board import plot
from helpers.bundle import in_node
from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_runs import spiking_run
from trainvitals.api.schema import Curve
from trainvitals_dashboard.parts.downloads import COLUMNS, csv_of, parquet_of

CURVE = Curve(
    "loss", [0, 2], [1, 2], [0.5, None], [0.75, None], [1.0, None], [1.0, None], [0, 1], [2, 0]
)
ROWS = [
    ("loss", 0, 1, 2, 0.5, 0.75, 1.0, 1.0, 0),
    ("loss", 2, 2, 0, None, None, None, None, 1),
]


def test_csv_has_a_row_per_bucket_and_empty_cells_for_values_that_are_not_finite():
    header, *lines = csv.reader(io.StringIO(csv_of([CURVE]).decode()))
    assert tuple(header) == COLUMNS
    assert lines == [["" if v is None else str(v) for v in row] for row in ROWS]


@pytest.mark.parametrize("curves", [[CURVE], []])
def test_parquet_has_the_same_rows(curves):
    table = pq.read_table(io.BytesIO(parquet_of(curves)))
    assert tuple(table.column_names) == COLUMNS
    assert [tuple(row.values()) for row in table.to_pylist()] == (ROWS if curves else [])


def test_a_file_name_has_no_special_characters():
    names = in_node("png.js", "['Loss: a/b', '../..', 'Größe 3'].map(m.fileName)")
    assert names == ["Loss-a-b", "chart", "Größe-3"]


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
def test_a_visitor_gets_the_curves_of_the_range_the_report_and_the_picture_of_a_chart(tmp_path):
    with (
        fake_collector(spiking_run(state="finished")) as fake,
        dashboard(fake.url, TOKEN) as url,
        chromium() as browser,
        visit(browser, f"{url}/run?run=gpt-small&from_step=10&to_step=19") as seen,
    ):
        plot(seen.page, "curve-loss")
        seen.page.get_by_role("button", name="Download", exact=False).first.click()
        with seen.page.expect_download(timeout=20_000) as csv_file:
            seen.page.get_by_role("button", name="CSV").click()
        lines = list(csv.DictReader(csv_file.value.path().read_text().splitlines()))
        assert csv_file.value.suggested_filename == "gpt-small.csv"
        assert [int(r["step"]) for r in lines if r["curve"] == "loss"] == list(range(10, 20))
        with seen.page.expect_download(timeout=20_000) as page:
            seen.page.get_by_role("button", name="HTML report").click()
        assert page.value.suggested_filename == "gpt-small.html"
        report = page.value.path().read_text()
        assert "<title>gpt-small</title>" in report
        assert '{"key": "curve-loss"' in report
        seen.page.keyboard.press("Escape")
        with seen.page.expect_download(timeout=20_000) as png:
            seen.page.get_by_role(
                "button", name="Loss: Download this chart as a PNG file", exact=True
            ).click()
        assert png.value.suggested_filename == "Loss.png"
        assert png.value.path().read_bytes().startswith(b"\x89PNG")
        assert png.value.path().stat().st_size > 5_000
        assert seen.errors == []
