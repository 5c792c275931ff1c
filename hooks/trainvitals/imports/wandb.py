"""The history of an offline run of Weights & Biases: `run-<id>.wandb`.

Comes in: the file. Goes out: `Scalars` and the run's configuration. The messages in the file are
decoded by the protocol buffers of the package wandb, where it is installed; the file is LevelDB's
log format behind seven bytes of W&B, with CRC-32 checksums.
Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
Start at `scalars_of`.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from trainvitals.export import NotInstalled
from trainvitals.imports.rows import BadFile
from trainvitals.imports.scalars import Scalars

_MAGIC: Final = b":W&B\xe1\xbe\x00"
_BLOCK: Final = 32_768
_HEADER: Final = struct.Struct("<IHB")
"""Checksum of kind and data, length, kind."""
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_DAMAGED: Final = "bytes at the end of the file that are not complete or damaged"


def is_run(path: Path) -> bool:
    """Whether the name of a file is one of W&B's."""
    return path.suffix == ".wandb"


def scalars_of(path: Path, loss: str) -> tuple[Scalars, dict[str, Any]]:
    """Return the scalars of an offline run, and its configuration.

    Raises:
        NotInstalled: wandb is not installed.
        BadFile: it is no file of W&B.
    """
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto import wandb_internal_pb2
    except ImportError as error:
        raise NotInstalled("Files of W&B are decoded by its package: pip install wandb.") from error
    content = path.read_bytes()
    if not content.startswith(_MAGIC):
        raise BadFile(f"{path} does not begin like a run of W&B.")
    found, config = Scalars(loss), {}
    for blob in records(content, found):
        record = wandb_internal_pb2.Record()
        try:
            record.ParseFromString(blob)
        except DecodeError:
            found.left_out["records that cannot be decoded"] += 1
            continue
        kind = record.WhichOneof("record_type")
        if kind == "history":
            _add(found, record.history)
        elif kind == "run":
            config.update({item.key: _json(item.value_json) for item in record.run.config.update})
        elif kind in ("stats", "artifact", "tbrecord", "output", "output_raw"):
            found.left_out[f"records of the kind {kind}"] += 1
    return found, config


def records(content: bytes, found: Scalars) -> Iterator[bytes]:
    """Yield the records of a file; what follows a damaged one is counted and left out."""
    at = len(_MAGIC)
    parts: list[bytes] = []
    while at < len(content):
        room = _BLOCK - at % _BLOCK
        if room < _HEADER.size:
            at += room  # zeros up to the end of the block
            continue
        if len(content) - at < _HEADER.size:
            break
        checksum, length, kind = _HEADER.unpack_from(content, at)
        data = content[at + _HEADER.size : at + _HEADER.size + length]
        if len(data) < length or zlib.crc32(bytes([kind]) + data) != checksum:
            break
        at += _HEADER.size + length
        if kind in (_FULL, _FIRST):
            parts = []
        parts.append(data)
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
    if at < len(content):
        found.left_out[_DAMAGED] += len(content) - at


def _add(found: Scalars, history: Any) -> None:
    values = {_name(item): _value(item) for item in history.item}
    step = values.get("_step", history.step.num)
    time = values.get("_timestamp", 0.0)
    if not isinstance(step, int | float) or not math.isfinite(step):
        found.left_out["rows without a step"] += 1
        return
    for tag, value in values.items():
        if tag.startswith("_"):
            continue  # W&B's own: step, time, runtime
        if isinstance(value, bool | int | float):
            moment = float(time) if isinstance(time, int | float) else 0.0
            found.add(tag, int(step), moment, _double(value))
        else:
            found.left_out["values that are not numbers"] += 1


def _name(item: Any) -> str:
    return ".".join(item.nested_key) or str(item.key)


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(1e308, value)  # outside the range of float32: counted by `Scalars`


def _value(item: Any) -> Any:
    """Return the value of an item: typed in newer files, JSON text in all others."""
    for name in ("integer", "number", "boolean"):
        if name in item.DESCRIPTOR.fields_by_name and _is_set(item, name):
            return getattr(item, name)
    return _json(item.value_json) if item.value_json else None


def _is_set(item: Any, name: str) -> bool:
    field = item.DESCRIPTOR.fields_by_name[name]
    return bool(item.HasField(name)) if field.has_presence else False


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
