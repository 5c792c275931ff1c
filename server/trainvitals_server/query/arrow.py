"""Curves and heat maps as Arrow IPC streams, compressed with zstd.

Comes in: `Curves`, or rows of a heat map. Goes out: bytes that `trainvitals.api.arrow` and any
other Arrow reader decode.
A stream of curves has one row per place and bucket, ordered by place. A stream of a heat map has
one row per place, module or block; the steps of its columns are in the metadata of the schema, as
JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fastapi import Request

from trainvitals.api.arrow import MEDIA_TYPE
from trainvitals.api.planes import ACCEPT_PARAMETER, coded
from trainvitals_server.query.heatmaps import MapRows
from trainvitals_server.store.series import Curves
from trainvitals_server.store.tiers import Floats

VALUES: Final = ("min", "mean", "max", "last")
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")
_MAP_FIELDS = (
    ("place", pa.string()),
    ("values", pa.list_(pa.field("value", pa.float32()))),
    ("nonfinite", pa.list_(pa.field("column", pa.uint16()))),
    ("low", pa.float32()),
    ("high", pa.float32()),
    ("least_positive", pa.float32()),
)


def wants_arrow(request: Request) -> bool:
    """Return whether the request accepts Arrow streams; `*/*` means JSON."""
    parameters = _parameters(request)
    refused = ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return parameters is not None and not any(p in refused for p in parameters)


def wants_planes(request: Request) -> bool:
    """Return whether the request accepts Arrow streams with `trainvitals.api.planes`."""
    return ACCEPT_PARAMETER in (_parameters(request) or ())


def _parameters(request: Request) -> list[str] | None:
    """Return the parameters with which Arrow streams are accepted; None: they are not."""
    for part in request.headers.get("accept", "").split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        if kind == MEDIA_TYPE:
            return parameters
    return None


def series_stream(
    stream: str,
    statistic: str,
    found: Curves,
    values: Sequence[str] = VALUES,
    *,
    in_planes: bool = False,
) -> bytes:
    """Return the curves as a stream with the columns `values`, some of VALUES.

    `in_planes`: as the columns that `trainvitals.api.planes` makes of them. Buckets without a
    measurement of a place are left out.
    """
    spans = found.spans
    place, bucket = np.nonzero((spans.count + spans.infinite > 0).T)

    def at(field: Floats, kind: type[np.generic]) -> npt.NDArray[Any]:
        return field[bucket, place].astype(kind)

    fields = dict(
        zip(VALUES, (spans.minimum, spans.mean, spans.maximum, spans.newest), strict=True)
    )
    numbers = {name: at(fields[name], np.float32) for name in VALUES if name in values}
    columns = {
        "place": pa.DictionaryArray.from_arrays(
            place.astype(np.int16), pa.array(found.places, pa.string())
        ),
        "step": spans.first[bucket],
        "last_step": spans.last[bucket],
        **(coded(numbers) if in_planes else numbers),
        "nonfinite": at(spans.infinite, np.uint32),
        "count": at(spans.count, np.uint32),
    }
    batch = pa.record_batch(columns, metadata={"stream": stream, "statistic": statistic})
    return in_bytes(batch)


def in_bytes(batch: Any) -> bytes:
    """Return a record batch as a stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_OPTIONS) as writer:
        writer.write_batch(batch)
    made: bytes = sink.getvalue().to_pybytes()
    return made


def write_map(file: IO[bytes], stream: str, statistic: str, slices: Iterator[MapRows]) -> None:
    """Write a heat map to `file`; each slice of rows becomes a record batch."""
    first = next(slices, None)
    axes = {
        "steps": [] if first is None else first.steps.tolist(),
        "last_steps": [] if first is None else first.last_steps.tolist(),
    }
    about = {"stream": stream, "statistic": statistic}
    schema = pa.schema(
        [pa.field(*field) for field in _MAP_FIELDS],
        metadata={**about, **{name: json.dumps(steps) for name, steps in axes.items()}},
    )
    with pa.ipc.new_stream(file, schema, options=_OPTIONS) as writer:
        while first is not None:
            writer.write_batch(_batch(first, schema))
            first = next(slices, None)


def _batch(rows: MapRows, schema: Any) -> Any:
    width = len(rows.steps)
    ends = np.arange(len(rows.names) + 1, dtype=np.int32) * width
    row, column = np.nonzero(rows.infinite)
    bad_ends = np.searchsorted(row, np.arange(len(rows.names) + 1)).astype(np.int32)
    parts = (
        pa.array(rows.names, pa.string()),
        pa.ListArray.from_arrays(ends, pa.array(rows.values.reshape(-1), pa.float32())),
        pa.ListArray.from_arrays(bad_ends, pa.array(column.astype(np.uint16))),
        pa.array(rows.low),
        pa.array(rows.high),
        pa.array(rows.least_positive),
    )
    columns = [part.cast(kind) for part, (_, kind) in zip(parts, _MAP_FIELDS, strict=True)]
    return pa.record_batch(columns, schema=schema)
