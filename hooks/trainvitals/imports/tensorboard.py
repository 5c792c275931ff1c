"""The scalars of TensorBoard's event files.

Comes in: event files of one run, in the order in which they were written. Goes out: `Scalars`.
Uses TensorBoard's own reader, where it is installed.
Start at `scalars_of`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from trainvitals.export import NotInstalled
from trainvitals.imports.rows import BadFile
from trainvitals.imports.scalars import Scalars

_SCALARS: Final = "scalars"
_FRAME: Final = 12
"""Bytes before the data of a record: its length (u64, little-endian) and the length's checksum."""
_AFTER: Final = 4


def is_events(path: Path) -> bool:
    """Whether the name of a file is one of TensorBoard's."""
    return ".tfevents." in path.name


def scalars_of(paths: Sequence[Path], loss: str) -> Scalars:
    """Return the scalars of event files.

    Raises:
        NotInstalled: tensorboard is not installed.
        BadFile: a file has no complete record.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util import tensor_util
    except ImportError as error:
        raise NotInstalled(
            "Event files are read by TensorBoard: pip install tensorboard."
        ) from error
    found = Scalars(loss)
    for path in paths:
        events = 0
        for event in EventFileLoader(str(path)).Load():
            events += 1
            for value in event.summary.value:
                _add(found, event, value, tensor_util)
        if not events:
            raise BadFile(f"{path} has no event that TensorBoard can read.")
        if cut := incomplete_bytes(path):
            found.left_out["bytes at the end of a file, a record that is not complete"] += cut
    return found


def incomplete_bytes(path: Path) -> int:
    """Return the number of bytes after the last complete record, by the lengths of the records."""
    size = path.stat().st_size
    at = 0
    with path.open("rb") as file:
        while at + _FRAME <= size:
            file.seek(at)
            (length,) = struct.unpack("<Q", file.read(8))
            if at + _FRAME + length + _AFTER > size:
                break
            at += _FRAME + length + _AFTER
    return size - at


def _add(found: Scalars, event: Any, value: Any, tensor_util: Any) -> None:
    plugin = value.metadata.plugin_data.plugin_name
    if plugin == _SCALARS:
        number = tensor_util.make_ndarray(value.tensor)
        if number.size == 1:
            found.add(value.tag, event.step, event.wall_time, float(number.reshape(())))
            return
    found.left_out[f"summaries of the kind {plugin or 'unknown'}"] += 1
