"""GET /api/v1/runs/{run}/latest: the newest value of every series of a run in one answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fastapi import Request, Response

from trainvitals.api import schema
from trainvitals.api.arrow import MEDIA_TYPE
from trainvitals_server.auth import ScopedRouter
from trainvitals_server.query.arrow import in_bytes, wants_arrow
from trainvitals_server.query.responses import Reader, described, json_response, store_of
from trainvitals_server.query.routes import VARY, RunName, run_of
from trainvitals_server.store.latest import StreamLatest

routes = ScopedRouter(prefix="/api/v1", tags=["runs"])


@routes.get("/runs/{run}/latest", **described(schema.Latest, "unknown_run", also=MEDIA_TYPE))
def latest(request: Request, principal: Reader, run: RunName) -> Response:
    """Return the newest value of every series of the run, and its step.

    A series without a value in its newest 256 steps or more may have no value in the response. With
    `Accept: application/vnd.apache.arrow.stream`: an Arrow stream with one row per series.
    """
    summary = run_of(request, principal, run)
    found = store_of(request).latest(summary.pk)
    if wants_arrow(request):
        return Response(latest_stream(found), headers=VARY, media_type=MEDIA_TYPE)
    streams = [
        schema.LatestValues(**_about(each), values=each.values.tolist(), steps=each.steps.tolist())
        for each in found
    ]
    return json_response(schema.Latest(streams), VARY)


def _about(latest: StreamLatest) -> dict[str, Any]:
    return {
        "stream": str(latest.layout.stream),
        "statistics": [str(statistic) for statistic in latest.layout.statistics],
        "places": [place.name for place in latest.layout.places],
    }


def latest_stream(found: Sequence[StreamLatest]) -> bytes:
    """Return an Arrow stream: one row per series, by stream, place and statistic."""
    about = [_about(each) for each in found]
    columns = {
        "stream": _names([(one["stream"], each.values.size) for one, each in _pairs(about, found)]),
        "place": _names(
            [(place, len(one["statistics"])) for one in about for place in one["places"]]
        ),
        "statistic": _names(
            [(name, 1) for one in about for _ in one["places"] for name in one["statistics"]]
        ),
        "step": _joined([each.steps for each in found], np.int64),
        "value": _joined([each.values for each in found], np.float32),
    }
    return in_bytes(pa.record_batch(columns, metadata={"streams": json.dumps(about)}))


def _pairs(
    about: list[dict[str, Any]], found: Sequence[StreamLatest]
) -> list[tuple[dict[str, Any], StreamLatest]]:
    return list(zip(about, found, strict=True))


def _names(repeated: list[tuple[str, int]]) -> Any:
    """Return (name, times) pairs as a column with a dictionary."""
    codes: dict[str, int] = {}
    each = [codes.setdefault(name, len(codes)) for name, _ in repeated]
    index = np.repeat(np.array(each, np.int32), [times for _, times in repeated])
    return pa.DictionaryArray.from_arrays(index, pa.array(list(codes), pa.string()))


def _joined(parts: list[npt.NDArray[Any]], kind: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *(part.reshape(-1) for part in parts)])
