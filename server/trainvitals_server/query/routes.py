"""The routes. Each answers with a struct of `trainvitals.api.schema`, or with a problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from trainvitals.api import schema
from trainvitals.api.arrow import MEDIA_TYPE
from trainvitals.wire import CONTENT_TYPE, Batch, Stat, Stream, encode
from trainvitals_server.auth import Principal, ScopedRouter
from trainvitals_server.problems import Problem, problem_responses
from trainvitals_server.query.arrow import (
    VALUES,
    series_stream,
    wants_arrow,
    wants_planes,
    write_map,
)
from trainvitals_server.query.heatmaps import (
    Row,
    in_file,
    places_of,
    rows_of,
    rows_of_blocks,
    rows_of_places,
    sent,
    slices_of,
    write_json,
)
from trainvitals_server.query.heavy import HeavyReads
from trainvitals_server.query.responses import Reader, States, described, json_response, store_of
from trainvitals_server.store import RequestRefused, StoredRun
from trainvitals_server.store.ingest import qualified
from trainvitals_server.store.runs import Sort
from trainvitals_server.store.series import Curves, UnknownSeries
from trainvitals_server.store.tiers import Floats, Spans
from trainvitals_server.store.timeline import EVERY_STEP

POINTS_MAX = 2000
COLUMNS_MAX = 512
PLACES_MAX = 50
ROWS_MAX = 200
HEAVY_PLACES = 10
"""Reads of as many curves or more wait for each other, as heat maps do."""

VARY = {"Vary": "Accept"}
Value = Literal["min", "mean", "max", "last"]

routes = ScopedRouter(prefix="/api/v1", tags=["runs"])

RunName = Annotated[str, Path(max_length=514, description="The run's id.")]
FromStep = Annotated[int, Query(ge=0, lt=2**53, description="The first step wanted.")]
ToStep = Annotated[int | None, Query(ge=0, lt=2**53, description="The last step wanted.")]


def _binary(*reasons: str) -> dict[str, Any]:
    """Return the keywords of a route that answers a wire batch or one of these problems."""
    body = {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}
    problems = problem_responses("unauthorised", "forbidden", *reasons, "invalid", "internal")
    return {
        "response_class": Response,
        "responses": {200: {"description": "OK", "content": body}, **problems},
    }


def run_of(request: Request, principal: Principal, run_id: str) -> StoredRun:
    store = store_of(request)
    if "\x00" in run_id:
        summary = None
    elif principal.project is None:
        summary = store.run(run_id)
    else:
        # If two projects use one name, a token of one project selects its project's run.
        summary = store.run(qualified(principal.project, run_id)) or store.run(run_id)
    # A run of another project gets the same response as a run that does not exist.
    if summary is None or not principal.sees(summary.run.project):
        raise Problem("unknown_run", "No run with this id has reported to this collector.")
    return summary


@routes.get("/runs", **described(schema.RunPage, "cursor"))
def runs(
    request: Request,
    principal: Reader,
    project: Annotated[str | None, Query(max_length=256)] = None,
    state: States = None,
    search: Annotated[
        str | None,
        Query(max_length=256, description="Searched in id, name, project, host and tags."),
    ] = None,
    archived: Annotated[bool, Query(description="Include archived runs.")] = False,
    deleted: Annotated[bool, Query(description="Only the runs in the bin.")] = False,
    sort: Annotated[Sort, Query(description="Runs with equal values: the newest first.")] = (
        "started_at"
    ),
    ascending: Annotated[bool, Query(description="Smallest first; `z` after `a`.")] = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Annotated[
        str | None,
        Query(max_length=500, description="The cursor of the previous page, of the same `sort`."),
    ] = None,
) -> Response:
    """List runs, newest started first unless `sort` and `ascending` are given."""
    if principal.project is not None:
        if project not in (None, principal.project):
            return json_response(schema.RunPage([], None))
        project = principal.project
    if any("\x00" in word for word in (project, search) if word):
        return json_response(schema.RunPage([], None))
    try:
        page, following = store_of(request).run_summaries(
            project=project,
            state=state,
            search=search,
            archived=archived,
            binned=deleted,
            sort=sort,
            ascending=ascending,
            limit=limit,
            cursor=cursor,
        )
    except RequestRefused as refused:
        raise Problem(refused.reason, str(refused)) from refused
    return json_response(schema.RunPage([stored.run for stored in page], following))


@routes.get("/runs/{run}", **described(schema.RunDetail, "unknown_run"))
def run(request: Request, principal: Reader, run: RunName) -> Response:
    """Return a run without its curves. Responds 304 to a matching If-None-Match."""
    summary = run_of(request, principal, run)
    etag = f'"{summary.pk}-{summary.changes}"'
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": etag})
    return json_response(store_of(request).detail(summary), {"ETag": etag})


@routes.get("/runs/{run}/findings", **described(schema.Findings, "unknown_run"))
def findings(request: Request, principal: Reader, run: RunName) -> Response:
    """Return the findings of the last round, ranked."""
    summary = run_of(request, principal, run)
    return json_response(schema.Findings(tuple(store_of(request).findings(summary.pk))))


@routes.get("/runs/{run}/initial", **described(schema.Checkup, "unknown_run"))
def initial(request: Request, principal: Reader, run: RunName) -> Response:
    """Return the state before the training: initialisers, propagation, the first loss."""
    summary = run_of(request, principal, run)
    return json_response(store_of(request).initial(summary.pk))


@routes.get("/runs/{run}/layout", **described(schema.Layouts, "unknown_run"))
def layout(request: Request, principal: Reader, run: RunName) -> Response:
    """Return the places and statistics of each stream."""
    summary = run_of(request, principal, run)
    streams = [
        schema.Layout(
            str(layout.stream),
            tuple(map(str, layout.statistics)),
            layout.places,
        )
        for layout in store_of(request).layouts(summary.pk)
    ]
    return json_response(schema.Layouts(streams))


@routes.get(
    "/runs/{run}/series",
    **described(schema.Series, "unknown_run", "unknown_series", "busy", also=MEDIA_TYPE),
)
async def series(
    request: Request,
    principal: Reader,
    run: RunName,
    stream: Stream,
    statistic: Stat,
    place: Annotated[list[str], Query(min_length=1, max_length=PLACES_MAX)],
    from_step: FromStep = 0,
    to_step: ToStep = None,
    points: Annotated[int, Query(ge=1, le=POINTS_MAX)] = 500,
    value: Annotated[
        list[Value] | None, Query(max_length=4, description="Only these; the others are empty.")
    ] = None,
) -> Response:
    """Return curves in buckets with min, mean, max and last value of each, in float32.

    With `Accept: application/vnd.apache.arrow.stream`: an Arrow stream with the same numbers, one
    row per place and bucket.
    """

    def read() -> Response:
        summary = run_of(request, principal, run)
        found = _curves(request, summary, stream, statistic, place, from_step, to_step, points)
        wanted = value or VALUES
        if wants_arrow(request):
            planes = wants_planes(request)
            streamed = series_stream(stream, statistic, found, wanted, in_planes=planes)
            return Response(streamed, headers=VARY, media_type=MEDIA_TYPE)
        curves = [_curve(name, found.spans, i, wanted) for i, name in enumerate(found.places)]
        return json_response(schema.Series(str(stream), str(statistic), curves), VARY)

    if len(place) < HEAVY_PLACES:
        return await run_in_threadpool(read)
    heavy: HeavyReads = request.app.state.curve_reads
    return await heavy.run(read)


@routes.get(
    "/runs/{run}/heatmap",
    **described(schema.Heatmap, "unknown_run", "unknown_series", "busy", also=MEDIA_TYPE),
)
async def heatmap(
    request: Request,
    principal: Reader,
    run: RunName,
    stream: Stream,
    statistic: Stat,
    from_step: FromStep = 0,
    to_step: ToStep = None,
    columns: Annotated[int, Query(ge=1, le=COLUMNS_MAX)] = 200,
    place: Annotated[
        list[str] | None, Query(max_length=ROWS_MAX, description="Only these places and modules.")
    ] = None,
    by: Annotated[
        Literal["place", "block"], Query(description="One row per place or per block.")
    ] = "place",
) -> Response:
    """Return the means of a statistic: one row per place, by depth; one column per bucket.

    A block is a repeated part of the network: the tensors whose names begin with the same module up
    to its first number ("encoder.layers.3"). Its value is the median of its tensors, and for the
    statistic nonfinite the largest.

    With `Accept: application/vnd.apache.arrow.stream`: an Arrow stream with the same numbers, one
    row per place, module or block.
    """
    heavy: HeavyReads = request.app.state.heavy_reads
    write = write_map if wants_arrow(request) else write_json

    slices: list[list[Row]] = []

    def split(every: Sequence[str]) -> list[list[str]]:
        wanted = every if place is None else place
        rows = rows_of_blocks(wanted) if by == "block" else rows_of_places(wanted, every)
        slices[:] = slices_of(rows)
        return [places_of(part) for part in slices]

    def read() -> IO[bytes]:
        summary = run_of(request, principal, run)
        wanted = store_of(request).curves_of_all_places(
            summary.pk,
            stream,
            statistic,
            lo=from_step,
            hi=EVERY_STEP if to_step is None else to_step + 1,
            points=columns,
            split=split,
        )
        try:
            with wanted as curves:
                rows = rows_of(statistic, curves, slices)
                return in_file(lambda file: write(file, stream, statistic, rows))
        except UnknownSeries as unknown:
            raise Problem("unknown_series", str(unknown)) from unknown

    kind = MEDIA_TYPE if write is write_map else "application/json"
    return StreamingResponse(sent(await heavy.run(read)), headers=VARY, media_type=kind)


@routes.get("/runs/{run}/frames", **_binary("unknown_run"))
def frames(
    request: Request, principal: Reader, run: RunName, stream: Stream, from_step: FromStep = 0
) -> Response:
    """Return the first rows of a stream from a step on, as stored, in the form of a wire batch.

    The batch has a layout and a frame of at most 2^20 values (but at least one step), or no records
    when there are no more rows. Its source is 16 zero bytes.
    """
    summary = run_of(request, principal, run)
    found = store_of(request).frames(summary.pk, stream, from_step)
    about = summary.run
    batch = Batch(about.id, about.project, bytes(16), 0, about.last_report_at, 0, found or ())
    return Response(encode(batch), media_type=CONTENT_TYPE)


def _curves(
    request: Request,
    summary: StoredRun,
    stream: Stream,
    statistic: Stat,
    places: list[str],
    from_step: int,
    to_step: int | None,
    points: int,
) -> Curves:
    hi = EVERY_STEP if to_step is None else to_step + 1
    try:
        return store_of(request).curves(
            summary.pk, stream, statistic, places, lo=from_step, hi=hi, points=points
        )
    except UnknownSeries as unknown:
        raise Problem("unknown_series", str(unknown)) from unknown


def _curve(place: str, spans: Spans, column: int, values: Sequence[str]) -> schema.Curve:
    counts, infinite = spans.count[:, column], spans.infinite[:, column]
    here = counts + infinite > 0

    def numbers(name: str, field: Floats) -> list[Any]:
        if name not in values:
            return []
        kept: list[Any] = field[here, column].astype(np.float32).tolist()
        return kept

    def whole(field: npt.NDArray[Any]) -> list[int]:
        kept: list[int] = field[here].astype(np.int64).tolist()
        return kept

    return schema.Curve(
        place,
        whole(spans.first),
        whole(spans.last),
        numbers("min", spans.minimum),
        numbers("mean", spans.mean),
        numbers("max", spans.maximum),
        numbers("last", spans.newest),
        whole(infinite),
        whole(counts),
    )


rules = ScopedRouter(prefix="/api/v1", tags=["rules"])


@rules.get("/rules", **described(schema.Rules))
def rule_list(principal: Reader) -> Response:  # noqa: ARG001 - declares the scope
    """List the rules."""
    from trainvitals.diagnosis.user_rules import usable_rules

    pages = [rule.page() for rule in usable_rules()]
    return json_response(schema.Rules([schema.RuleName(p.code, p.rule, p.summary) for p in pages]))


@rules.get("/rules/{code}", **described(schema.RulePage, "unknown_rule"))
def rule_page(
    principal: Reader,  # noqa: ARG001 - declares the scope
    code: Annotated[str, Path(max_length=32)],
) -> Response:
    """Return a rule's page and its thresholds."""
    from trainvitals.diagnosis.user_rules import usable_rules

    for rule in usable_rules():
        if rule.code == code:
            return json_response(rule.page())
    raise Problem("unknown_rule", "No rule has this code; /api/v1/rules lists them.")
