"""Export all stored values of a run: one row for each stream, place, statistic and step.

Comes in: a collector's client and a run's id. Goes out: CSV, JSON lines or Parquet.
Promise:  float32 values are the stored ones bit for bit, NaN and ±Inf included; memory is bounded
          by one page of the API.
Start at `pages`; `WRITERS` writes them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Final

import numpy as np

from trainvitals.api.client import Broken, Client
from trainvitals.wire import Frame, Layout

COLUMNS: Final = ("stream", "place", "statistic", "step", "time", "value")
Page = tuple[Layout, Frame]


class NotInstalled(Exception):  # noqa: N818 - a state of the installation
    """A format needs a package that is not installed."""


def pages(client: Client, run: str) -> Iterator[Page]:
    """Yield the frames of all streams with their layouts; within a stream, steps ascend.

    Raises:
        Refused, Unreachable: see `Client.get`.
    """
    for layout in client.layout(run).streams:
        step = 0
        while records := client.frames(run, layout.stream, step).records:
            match records:
                case (Layout() as rows, Frame() as frame) if frame.steps[-1] >= step:
                    yield rows, frame
                    step = int(frame.steps[-1]) + 1
                case _:
                    raise Broken(f"{client.url} answers with records other than a frame.")


def write_csv(found: Iterable[Page], file: IO[bytes]) -> None:
    """Write CSV with a header; values as the shortest text that reads back to the same float32."""
    lines = csv.writer(_Encoded(file), lineterminator="\n")
    lines.writerow(COLUMNS)
    # Python's csv does not quote a carriage return where lines end with a line feed alone.
    quoted = csv.writer(_Encoded(file), lineterminator="\n", quoting=csv.QUOTE_ALL)
    for page in found:
        has_return = any("\r" in place.name for place in page[0].places)
        (quoted if has_return else lines).writerows(
            (*words, step, repr(time), str(value)) for *words, step, time, value in rows(page)
        )


def write_jsonl(found: Iterable[Page], file: IO[bytes]) -> None:
    """Write one JSON object per line; NaN and ±Inf are strings: JSON has no such numbers."""
    for page in found:
        for *words, step, time, value in rows(page):
            text = str(value)
            number = NONFINITE[text] if text in NONFINITE else float(text)
            line = dict(zip(COLUMNS, (*words, step, time, number), strict=True))
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def write_parquet(found: Iterable[Page], file: IO[bytes]) -> None:
    """Write Parquet: dictionary-encoded names, step int64, time float64, value float32.

    Raises:
        NotInstalled: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NotInstalled("Parquet needs pyarrow: pip install pyarrow, or use csv.") from error
    name = pa.dictionary(pa.int32(), pa.string())
    kinds = (name, name, name, pa.int64(), pa.float64(), pa.float32())
    schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
    with pq.ParquetWriter(file, schema) as writer:
        for page in found:
            writer.write_table(pa.table(_columns(page, pa), schema=schema))


NONFINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
Writer = Callable[[Iterable[Page], IO[bytes]], None]
WRITERS: Final[dict[str, Writer]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def rows(page: Page) -> Iterator[tuple[str, str, str, int, float, Any]]:
    """Yield the rows of a frame in the order of COLUMNS; `value` is a numpy float32."""
    layout, frame = page
    steps, times = frame.steps.tolist(), frame.times.tolist()
    for at, place in enumerate(layout.places):
        for column, statistic in enumerate(layout.statistics):
            for step, time, value in zip(steps, times, frame.values[:, at, column], strict=True):
                yield str(frame.stream), place.name, str(statistic), step, time, value


def _columns(page: Page, pa: Any) -> dict[str, Any]:
    """Return the arrays of a frame's rows, in the order of `rows`."""
    layout, frame = page
    n, places, statistics = frame.values.shape

    def names(words: list[str], indices: Any) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), pa.array(words))

    series = places * statistics
    place = np.repeat(np.arange(places), statistics * n)
    statistic = np.tile(np.repeat(np.arange(statistics), n), places)
    return {
        "stream": names([str(frame.stream)], np.zeros(series * n)),
        "place": names([p.name for p in layout.places], place),
        "statistic": names([str(s) for s in layout.statistics], statistic),
        "step": pa.array(np.tile(frame.steps, series)),
        "time": pa.array(np.tile(frame.times, series)),
        "value": pa.array(np.ascontiguousarray(frame.values.transpose(1, 2, 0)).ravel()),
    }


class _Encoded:
    """A text file over a binary one, for `csv`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())
