"""The rows of an exported file as series: neighbouring rows of one place and statistic.

Comes in: CSV, JSON lines or Parquet with the columns of `export.COLUMNS`.
Goes out: `Part`s in the order of the file, each with at most 2 × PART_ROWS rows.
Promise:  memory is bounded by one part; a float32 keeps its bits (in Parquet those of NaN too).
Start at `READERS`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.export import COLUMNS, NONFINITE, NotInstalled
from trainvitals.imports.numbers import float32_of
from trainvitals.wire import Stat, Stream

PART_ROWS: Final = 2**20
"""As many steps as one page of an export can have. A place alone on many pages becomes parts of
this length; the last has up to twice as many rows, so that it includes the rows of that place on a
page with other places after them (at most half of PART_ROWS)."""
_LINES_AT_ONCE: Final = 2**16
_STEP_MAX: Final = 2**53


class BadFile(Exception):  # noqa: N818 - the file, not the program
    """The file cannot be imported; the message names the row and what is wrong with it."""


class Key(NamedTuple):
    """What the values of a part are."""

    stream: str
    place: str
    statistic: str


@dataclass(frozen=True)
class Part:
    """Rows with one key and ascending steps; the arrays have one entry for each row."""

    key: Key
    row: int
    """Number of its first row in the file, from 1, without the header."""
    steps: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]


_Columns = tuple[list[Key], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float32]]


def parts_of_csv(path: Path) -> Iterator[Part]:
    """Yield the parts of a CSV file. Raises BadFile."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        try:
            header = next(lines, None)
            if header is None or tuple(header) != COLUMNS:
                raise BadFile(f"The first line of {path} is not {','.join(COLUMNS)}.")
            yield from _parts(_blocks(lines, lambda line: line))
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadFile(f"{path} is not a CSV file in UTF-8: {error}.") from error


def parts_of_jsonl(path: Path) -> Iterator[Part]:
    """Yield the parts of a file with one JSON object per line. Raises BadFile."""
    words = {text: python for python, text in NONFINITE.items()}

    def fields(line: str) -> list[str]:
        # The text of a number: a double would round it before it becomes a float32.
        found = json.loads(line, parse_float=str, parse_int=str, parse_constant=_no_constant)
        if not isinstance(found, dict) or set(found) != set(COLUMNS):
            raise ValueError(f"it is not an object with the keys {', '.join(COLUMNS)}")
        if not all(isinstance(value, str) for value in found.values()):
            raise ValueError("a field is neither text nor a number")
        return [*(found[name] for name in COLUMNS[:-1]), words.get(found["value"], found["value"])]

    with path.open(encoding="utf-8") as file:
        try:
            yield from _parts(_blocks((line for line in file if line.strip()), fields))
        except UnicodeDecodeError as error:
            raise BadFile(f"{path} is not text in UTF-8: {error}.") from error


def parts_of_parquet(path: Path) -> Iterator[Part]:
    """Yield the parts of a Parquet file.

    Raises:
        BadFile: it is not one of an export.
        NotInstalled: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NotInstalled("Parquet needs pyarrow: pip install pyarrow.") from error
    try:
        with pq.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            if names != COLUMNS:
                raise BadFile(f"The columns of {path} are not {', '.join(COLUMNS)}.")
            kinds = [str(file.schema_arrow.field(name).type) for name in COLUMNS[3:]]
            if kinds != ["int64", "double", "float"]:
                raise BadFile(
                    f"step, time and value of {path} are {', '.join(kinds)}, not int64, double and "
                    "float."
                )
            yield from _parts(_arrow_blocks(file, pa))
    except pa.ArrowException as error:
        raise BadFile(f"{path} is not a Parquet file: {error}.") from error


Reader = Callable[[Path], Iterator[Part]]
READERS: Final[dict[str, Reader]] = {
    ".csv": parts_of_csv,
    ".jsonl": parts_of_jsonl,
    ".parquet": parts_of_parquet,
}


def _no_constant(word: str) -> str:
    raise ValueError(f"{word} is not JSON")


def _blocks(lines: Iterable[Any], fields: Callable[[Any], list[str]]) -> Iterator[_Columns]:
    row, left = 1, iter(lines)
    while some := list(islice(left, _LINES_AT_ONCE)):
        try:
            yield _columns([fields(line) for line in some])
        except ValueError:
            _name_bad_row(some, fields, row)
            raise
        row += len(some)


def _columns(rows: list[list[str]]) -> _Columns:
    if any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"it has not {len(COLUMNS)} fields")
    steps = [int(row[3]) for row in rows]
    if not all(0 <= step < _STEP_MAX for step in steps):
        raise ValueError("its step is not from 0 to 2^53")
    times = [float(row[4]) for row in rows]
    if not all(map(math.isfinite, times)):
        raise ValueError("its time is not finite")
    return (
        [Key(*row[:3]) for row in rows],
        np.array(steps, np.int64),
        np.array(times, np.float64),
        float32_of([row[5] for row in rows]),
    )


def _name_bad_row(lines: list[Any], fields: Callable[[Any], list[str]], first: int) -> None:
    """Raise BadFile for the first of the lines that cannot be read."""
    for row, line in enumerate(lines, first):
        try:
            _columns([fields(line)])
        except ValueError as error:
            raise BadFile(f"Row {row:,} cannot be read: {error}.") from error


def _arrow_blocks(file: Any, pa: Any) -> Iterator[_Columns]:
    row = 1
    for batch in file.iter_batches(_LINES_AT_ONCE):
        if any(column.null_count for column in batch.columns):
            raise BadFile(f"A field of the rows from {row:,} on is null.")
        words = [batch.column(name).cast(pa.string()).to_pylist() for name in COLUMNS[:3]]
        steps, times, values = (
            batch.column(name).to_numpy(zero_copy_only=False) for name in COLUMNS[3:]
        )
        if not len(steps):
            continue
        if steps.min() < 0 or steps.max() >= _STEP_MAX or not np.isfinite(times).all():
            raise BadFile(
                f"In the rows from {row:,} on, a step is not from 0 to 2^53 or a time not finite."
            )
        yield [Key(*key) for key in zip(*words, strict=True)], steps, times, values
        row += len(steps)


def _parts(blocks: Iterable[_Columns]) -> Iterator[Part]:
    """Join the rows of the blocks to parts."""
    row = 1
    held: Part | None = None
    for keys, steps, times, values in blocks:
        for lo, hi in _runs(keys, steps):
            part = Part(keys[lo], row + lo, steps[lo:hi], times[lo:hi], values[lo:hi])
            if held is not None and _continues(held, part):
                held = _joined(held, part)
                if len(held.steps) > 2 * PART_ROWS:
                    yield cut(held, 0, PART_ROWS)
                    held = cut(held, PART_ROWS, len(held.steps))
                continue
            if held is not None:
                yield held
            _check_names(part)
            held = part
        row += len(keys)
    if held is not None:
        yield held


def _runs(keys: list[Key], steps: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    lo = 0
    for at in range(1, len(keys)):
        if keys[at] != keys[at - 1] or steps[at] <= steps[at - 1]:
            yield lo, at
            lo = at
    if keys:
        yield lo, len(keys)


def _continues(held: Part, part: Part) -> bool:
    return held.key == part.key and held.steps[-1] < part.steps[0]


def _joined(a: Part, b: Part) -> Part:
    return Part(
        a.key,
        a.row,
        np.concatenate((a.steps, b.steps)),
        np.concatenate((a.times, b.times)),
        np.concatenate((a.values, b.values)),
    )


def cut(part: Part, lo: int, hi: int) -> Part:
    """Return the rows lo to hi − 1 of a part."""
    here = slice(lo, hi)
    return Part(part.key, part.row + lo, part.steps[here], part.times[here], part.values[here])


def _check_names(part: Part) -> None:
    stream, _, statistic = part.key
    if stream not in set(Stream):
        raise BadFile(f"Row {part.row:,} has the stream {stream!r}, which does not exist.")
    if statistic not in set(Stat):
        raise BadFile(f"Row {part.row:,} has the statistic {statistic!r}, which does not exist.")
