"""The report of a run as one HTML page.

Promise:  time and memory have a limit: the page has at most LINES_MAX curves of POINTS points, and
          `trainvitals.report.html` limits its tables and findings. Pages are made in the queue of
          expensive reads (heavy.py).
"""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import Request, Response

from trainvitals.api.schema import Diagnosis
from trainvitals.api.schema import Layout as LayoutAnswer
from trainvitals.diagnosis.history import Series
from trainvitals.report import as_html
from trainvitals.report.curves import CurveKey, course_names, key_of, source_of
from trainvitals.report.of_run import diagnosis_of_run, drawn_curve
from trainvitals.wire import Layout, Stat, Stream
from trainvitals_server.auth import ScopedRouter
from trainvitals_server.problems import problem_responses
from trainvitals_server.query.heavy import HeavyReads
from trainvitals_server.query.responses import Reader, store_of
from trainvitals_server.query.routes import RunName, run_of
from trainvitals_server.store import Store
from trainvitals_server.store.series import UnknownSeries

POINTS: Final = 400
"""Buckets of each curve."""
LINES_MAX: Final = 50
"""Scalars that are drawn."""
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""Content-Security-Policy: the page runs no script and loads nothing."""

routes = ScopedRouter(prefix="/api/v1", tags=["runs"])

_PROBLEMS: Final = problem_responses(
    "unauthorised", "forbidden", "unknown_run", "busy", "invalid", "internal"
)
_PAGE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "OK", "content": {"text/html": {"schema": {"type": "string"}}}}
}


@routes.get("/runs/{run}/report.html", response_class=Response, responses={**_PAGE, **_PROBLEMS})
async def report(request: Request, principal: Reader, run: RunName) -> Response:
    """Return the newest diagnosis of a run as one HTML page, without scripts and other files.

    It has the verdict, the findings, the curves and the state before the training.
    """
    heavy: HeavyReads = request.app.state.heavy_reads

    def made() -> tuple[str, str]:
        summary = run_of(request, principal, run)
        store = store_of(request)
        layouts = store.layouts(summary.pk)
        diagnosis = diagnosis_of_run(
            store.detail(summary),
            store.findings(summary.pk),
            [LayoutAnswer(str(x.stream), tuple(map(str, x.statistics)), x.places) for x in layouts],
            store.initial(summary.pk),
        )
        name = summary.run.name or summary.run.id
        curves = page_curves(store, summary.pk, layouts, diagnosis)
        return as_html(diagnosis, curves, name=name), file_name(name)

    page, file = await heavy.run(made)
    headers = {
        "Content-Disposition": f'attachment; filename="{file}"',
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-store",
    }
    return Response(page, media_type="text/html; charset=utf-8", headers=headers)


def page_curves(
    store: Store, run_pk: int, layouts: list[Layout], diagnosis: Diagnosis
) -> dict[CurveKey, Series]:
    """Return the curves of the page: the training's course, and the headline's evidence."""
    places = {str(x.stream): [place.name for place in x.places] for x in layouts}
    names = course_names(places.get(Stream.SCALAR, []))[:LINES_MAX]
    course = _curves(store, run_pk, Stream.SCALAR, Stat.VALUE, names)
    curves: dict[CurveKey, Series] = {
        (Stream.SCALAR.value, name, ""): series for name, series in course.items()
    }
    finding = diagnosis.headline
    source = source_of(finding, places.get(finding.stream, [])) if finding is not None else None
    if finding is not None and source is not None and source[0] in tuple(Stat):
        stream, statistic = Stream(finding.stream), Stat(source[0])
        for series in _curves(store, run_pk, stream, statistic, [source[1]]).values():
            curves[key_of(finding)] = series
    return curves


def _curves(
    store: Store, run_pk: int, stream: Stream, statistic: Stat, names: list[str]
) -> dict[str, Series]:
    """Return place → curve; empty if the newest layout does not have the statistic."""
    if not names:
        return {}
    try:
        found = store.curves(run_pk, stream, statistic, names, points=POINTS)
    except UnknownSeries:
        return {}
    spans, made = found.spans, {}
    for i, name in enumerate(found.places):
        kept = spans.count[:, i] + spans.infinite[:, i] > 0
        fields = (spans.minimum, spans.mean, spans.maximum, spans.infinite)
        made[name] = drawn_curve(spans.first[kept], *(field[kept, i] for field in fields))
    return made


def file_name(name: str) -> str:
    """Return a file name of ASCII letters, digits, dots and dashes: it is part of a header."""
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-.')[:60] or 'run'}.html"
