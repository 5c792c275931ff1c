"""Downloads of a run: its report, and the curves of a page in the range that the URL names.

Comes in: a run and the names of its scalars. Goes out: HTML, CSV and Parquet files.
Each row is a bucket of steps, as in the charts; `trainvitals export` writes all stored values.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from trainvitals.api.schema import Curve, RunDetail
from trainvitals.wire import Stat, Stream
from trainvitals_dashboard.client import VALUES, Client
from trainvitals_dashboard.figures.curves import Line, StepRange
from trainvitals_dashboard.figures.report import with_board
from trainvitals_dashboard.figures.updates import ChartPlan, message_of
from trainvitals_dashboard.parts.blocks import code
from trainvitals_dashboard.parts.board import BUNDLE
from trainvitals_dashboard.parts.ranges import window
from trainvitals_dashboard.parts.session import client
from trainvitals_dashboard.wording import clean

POINTS = 2000
"""As many as the API sends for one curve."""
PLACES_MAX = 50
REPORT_POINTS = 1000
"""Of each curve in the HTML report: a zoom cannot request more from there."""
COLUMNS = ("curve", "step", "last_step", "count", "min", "mean", "max", "last", "nonfinite")


def downloads(run: RunDetail, scalars: Sequence[str], plans: Sequence[ChartPlan]) -> None:
    """Show the downloads of a run. The files are made when they are requested.

    `plans`: the charts of the report. Their requests must not need a run of the script.
    """
    name = re.sub(r"[^\w.-]+", "-", clean(run.name or run.id))[:60] or "run"
    source = client()
    with st.popover("Download", icon=":material/download:"):
        st.caption("Verdict, findings and curves of the whole run, as one file:")
        st.download_button(
            "HTML report",
            lambda: report_with_board(source.report_page(run.id), plans, run.step),
            file_name=f"{name}.html",
            mime="text/html",
            on_click="ignore",
        )
        if scalars:
            _curve_downloads(run, scalars, name)


def _curve_downloads(run: RunDetail, scalars: Sequence[str], name: str) -> None:
    # Read now: the files are made outside a run of the script, where the URL is not known.
    shown, source = window(), client()

    def curves() -> list[Curve]:
        return _curves(source, run, scalars, shown)

    st.caption("The curves in this range of steps, at most 2,000 points each:")
    st.download_button(
        "CSV",
        lambda: csv_of(curves()),
        file_name=f"{name}.csv",
        mime="text/csv",
        on_click="ignore",
    )
    st.download_button(
        "Parquet",
        lambda: parquet_of(curves()),
        file_name=f"{name}.parquet",
        mime="application/vnd.apache.parquet",
        on_click="ignore",
    )
    st.caption("All stored values:")
    code("export", f"trainvitals export {shlex.quote(clean(run.id))} -o {name}.csv")


def report_with_board(page: str, plans: Sequence[ChartPlan], newest: int) -> str:
    """Return the report of a run with its charts over the steps 0 to `newest`."""
    if not plans or not BUNDLE.exists():
        return page
    detailed = [_of_report(plan) for plan in plans]
    message = message_of(detailed, newest, StepRange(), None).message
    return with_board(page, message, BUNDLE.read_text(encoding="utf-8"))


def _of_report(plan: ChartPlan) -> ChartPlan:
    """Return a chart without links to other pages, and with REPORT_POINTS points of each curve."""

    def request(first: int | None, last: int | None, _: int) -> Sequence[Line]:
        return plan.request(first, last, REPORT_POINTS)

    return ChartPlan(replace(plan.chart, clicks=False), request)


def _curves(
    source: Client, run: RunDetail, scalars: Sequence[str], shown: StepRange
) -> list[Curve]:
    asked = source.series(
        run,
        Stream.SCALAR,
        Stat.VALUE,
        scalars[:PLACES_MAX],
        from_step=shown.first,
        to_step=shown.last,
        points=POINTS,
        values=VALUES,
    )
    return asked.value.series


def csv_of(curves: Iterable[Curve]) -> bytes:
    """Return CSV with a header; a value that is not finite or not measured is an empty cell."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(COLUMNS)
    lines.writerows(_rows(curves))
    return file.getvalue().encode()


def parquet_of(curves: Iterable[Curve]) -> bytes:
    """Return Parquet with the same columns; a value that is not finite is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole, real = pa.int64(), pa.float64()
    kinds = (pa.string(), whole, whole, whole, real, real, real, real, whole)
    columns = list(zip(*_rows(curves), strict=True)) or [()] * len(COLUMNS)
    arrays = [pa.array(list(c), kind) for c, kind in zip(columns, kinds, strict=True)]
    file = io.BytesIO()
    pq.write_table(pa.table(arrays, names=list(COLUMNS)), file)
    return file.getvalue()


def _rows(curves: Iterable[Curve]) -> Iterator[tuple[Any, ...]]:
    for one in curves:
        for row in zip(
            one.step,
            one.last_step,
            one.count,
            one.min,
            one.mean,
            one.max,
            one.last,
            one.nonfinite,
            strict=True,
        ):
            yield one.place, *row
