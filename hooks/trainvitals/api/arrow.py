"""Curves and heat maps as Arrow IPC streams, decoded to the structs of `curves`.

Comes in: an answer of the collector with the content type MEDIA_TYPE.
Goes out: the same `Series` or `Heatmap` that the JSON answer gives, equal bit for bit.
Start at `decoders`; `trainvitals_server.query.arrow` writes the streams.
Format:   https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainvitals.api.curves import Curve, Heatmap, Latest, LatestValues, Series
from trainvitals.api.planes import ACCEPT_PARAMETER, restored

MEDIA_TYPE: Final = "application/vnd.apache.arrow.stream"
ACCEPT: Final = f"{MEDIA_TYPE};{ACCEPT_PARAMETER}, application/json;q=0.5"
"""What `decoders` read. A collector that does not know the parameter ignores it."""
SERIES_COLUMNS: Final = ("step", "last_step", "min", "mean", "max", "last", "nonfinite", "count")
"""Columns of a stream of curves beside `place`, as in `Curve`; values not asked for are absent."""


class NotArrow(ValueError):  # noqa: N818 - an answer of another program or version
    """The bytes are not an Arrow stream with the expected columns."""


def decoders() -> dict[type[Any], Callable[[bytes], Any]]:
    """Return answer → its decoder; empty where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return {}
    return {Series: series_of, Heatmap: heatmap_of, Latest: latest_of}


def series_of(stream: bytes) -> Series:
    """Return the curves of a stream. Raises NotArrow."""
    table, about = _table(stream)
    try:
        column = table.column("place").combine_chunks()
        places = column.dictionary.to_pylist()
        # The rows are ordered by place.
        starts = np.searchsorted(column.indices.to_numpy(), np.arange(len(places) + 1))
        if "step" not in table.column_names:
            raise KeyError("step")
        columns = {name: _column(table.column(name)) for name in table.column_names[1:]}
        columns |= restored(columns, SERIES_COLUMNS)
        fields = {name: columns[name] for name in SERIES_COLUMNS if name in columns}
        curves = [
            Curve(place, **{name: _numbers(field[a:b]) for name, field in fields.items()})
            for place, a, b in zip(places, starts[:-1], starts[1:], strict=True)
        ]
        return Series(about["stream"], about["statistic"], curves)
    except (KeyError, AttributeError, TypeError) as error:
        raise NotArrow(f"The stream has no curves: {error}") from error


def heatmap_of(stream: bytes) -> Heatmap:
    """Return the heat map of a stream. Raises NotArrow."""
    table, about = _table(stream)
    try:
        steps, last_steps = json.loads(about["steps"]), json.loads(about["last_steps"])
        values = _column(table.column("values").combine_chunks().flatten())
        low, high, positive = (
            _column(table.column(name)) for name in ("low", "high", "least_positive")
        )
        return Heatmap(
            about["stream"],
            about["statistic"],
            table.column("place").to_pylist(),
            steps,
            [_numbers(row) for row in values.reshape(table.num_rows, len(steps))],
            last_steps,
            table.column("nonfinite").to_pylist(),
            _extreme(np.fmin, low),
            _extreme(np.fmax, high),
            _extreme(np.fmin, positive),
        )
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise NotArrow(f"The stream has no heat map: {error}") from error


def latest_of(stream: bytes) -> Latest:
    """Return the newest values of a stream. Raises NotArrow."""
    table, about = _table(stream)
    try:
        values, steps = _column(table.column("value")), _column(table.column("step"))
        streams, at = [], 0
        for layout in json.loads(about["streams"]):
            shape = (len(layout["places"]), len(layout["statistics"]))
            part = slice(at, at := at + shape[0] * shape[1])
            streams.append(
                LatestValues(
                    **layout,
                    values=[_finite(row) for row in values[part].reshape(shape)],
                    steps=steps[part].reshape(shape).tolist(),
                )
            )
        return Latest(streams)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise NotArrow(f"The stream has no newest values: {error}") from error


def _finite(values: npt.NDArray[np.float32]) -> list[Any]:
    """Return the values, with None for those that JSON cannot represent."""
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _table(stream: bytes) -> tuple[Any, dict[str, str]]:
    """Return the table of a stream and the texts that belong to its schema."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(stream).read_all()
    except (pa.ArrowException, OSError) as error:
        raise NotArrow(f"The answer is not an Arrow stream: {error}") from error
    about = table.schema.metadata or {}
    return table, {name.decode(): text.decode() for name, text in about.items()}


def _column(column: Any) -> npt.NDArray[Any]:
    """Return an array or a chunked array of numbers as one array of numpy."""
    found: npt.NDArray[Any] = np.asarray(column)
    return found


def _numbers(values: npt.NDArray[Any]) -> list[Any]:
    """Return integers, or `Numbers`: None for NaN, as in JSON."""
    found: list[Any] = values.tolist()
    if values.dtype.kind == "f":
        for i in np.flatnonzero(np.isnan(values)):
            found[i] = None
    return found


def _extreme(choose: np.ufunc, values: npt.NDArray[np.float32]) -> float | None:
    found = float(choose.reduce(values, initial=np.nan))
    return found if np.isfinite(found) else None
