"""Encode batches to bytes and decode them.

A body is `TVB`, one version byte, the header's length (u32, little-endian), the header (msgpack:
identity, records, and the shape of each frame), and the values of the frames: float32,
little-endian, in the order of the records, without gaps. NaN and ±Inf are preserved.

Promise: for any other body, `decode` raises WireError, before it allocates more memory than the
body has, and no other exception.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import msgspec
import numpy as np

from trainvitals.wire.records import (
    Batch,
    Dropped,
    Event,
    Frame,
    Heartbeat,
    Layout,
    NotWatched,
    Place,
    Record,
    RunEnd,
    RunStart,
)
from trainvitals.wire.vocabulary import NEWEST_VERSION, OLDEST_VERSION, Stream

MAGIC: Final = b"TVB"
SOURCE_BYTES: Final = 16
_PREFIX: Final = struct.Struct("<3sBI")
_STEP_MAX: Final = 2**53  # steps stay exact in JSON and float64


class WireError(ValueError):
    """A body that is not a valid batch. `reason` is a stable code."""

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason


class WireVersionError(WireError):
    """A batch of a wire version that this release does not read."""

    def __init__(self, got: int) -> None:
        super().__init__(
            f"The batch has wire version {got}; this side reads {OLDEST_VERSION} to "
            f"{NEWEST_VERSION}. Upgrade the older side: pip install -U trainvitals.",
            reason="wire_version",
        )


@dataclass(frozen=True)
class Limits:
    """The limits of `decode`, checked in the header before frames are built."""

    header_bytes_max: int = 8 * 2**20
    """A layout of 20,000 places with long names has about 6 MiB."""
    records_max: int = 10_000
    values_max: int = 4_000_000
    """Total number of values in all frames."""
    places_max: int = 20_000
    """Rows of one layout."""
    name_bytes_max: int = 256


class _FrameHeader(msgspec.Struct, frozen=True, tag="frame"):
    stream: Stream
    layout: int
    steps: list[int]
    times: list[float]
    places: int
    statistics: int


_HeaderRecord = RunStart | Layout | _FrameHeader | Event | NotWatched | Heartbeat | Dropped | RunEnd


class _RawRecords(msgspec.Struct, frozen=True):
    """The header with its records as slices."""

    records: tuple[msgspec.Raw, ...]


class _Header(msgspec.Struct, frozen=True, omit_defaults=True):
    run: str
    project: str
    source: bytes
    seq: int
    sent_at: float
    rank: int
    records: tuple[_HeaderRecord, ...]
    counted: int | None = None


_header_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(_Header)
_raw_decoder = msgspec.msgpack.Decoder(_RawRecords)
_frame_decoder = msgspec.msgpack.Decoder(_FrameHeader)


def encode(batch: Batch) -> bytes:
    """Return the body of `batch`. Neighbouring frames of one layout are merged."""
    headers: list[_HeaderRecord] = []
    blocks: list[bytes] = []
    for record in merge_frames(batch.records):
        if not isinstance(record, Frame):
            headers.append(record)
            continue
        _, places, statistics = record.values.shape
        headers.append(
            _FrameHeader(
                record.stream,
                record.layout,
                record.steps.tolist(),
                record.times.tolist(),
                places,
                statistics,
            )
        )
        blocks.append(np.ascontiguousarray(record.values, dtype="<f4").tobytes())
    header = _header_encoder.encode(
        _Header(
            batch.run,
            batch.project,
            batch.source,
            batch.seq,
            batch.sent_at,
            batch.rank,
            tuple(headers),
            batch.counted,
        )
    )
    return b"".join([_PREFIX.pack(MAGIC, NEWEST_VERSION, len(header)), header, *blocks])


def decode(body: bytes | memoryview, limits: Limits | None = None) -> Batch:
    """Return the batch in `body`; its frames are read-only views of `body`.

    Raises:
        WireVersionError: the wire version is not supported.
        WireError: the body is invalid; `reason` is malformed, or too_large if it exceeds one of
            `limits`.
    """
    limits = limits or Limits()
    if len(body) < _PREFIX.size:
        raise WireError(
            f"A batch is at least {_PREFIX.size} bytes long; this body has {len(body)}."
        )
    magic, version, claimed = _PREFIX.unpack_from(body)
    if magic != MAGIC:
        raise WireError("The body does not start with TVB: it is not a trainvitals batch.")
    if not OLDEST_VERSION <= version <= NEWEST_VERSION:
        raise WireVersionError(version)
    if claimed > limits.header_bytes_max:
        raise _too_large("header bytes", claimed, limits.header_bytes_max)
    blocks_at = _PREFIX.size + claimed
    if blocks_at > len(body):
        raise WireError(f"The header claims {claimed} bytes; the body ends before that.")
    try:
        header = _header_decoder.decode(memoryview(body)[_PREFIX.size : blocks_at])
    # RecursionError: deeply nested msgpack; UnicodeDecodeError is a ValueError.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"The header cannot be read: {error}") from error
    _check_identity(header, limits)
    records = _records(header, memoryview(body)[blocks_at:], limits)
    return Batch(
        header.run,
        header.project,
        header.source,
        header.seq,
        header.sent_at,
        header.rank,
        records,
        header.counted,
    )


def header_bytes(body: bytes | memoryview) -> int:
    """Return the length of the header that a body claims to have; for another body, any number."""
    return int(_PREFIX.unpack_from(body)[2]) if len(body) >= _PREFIX.size else 0


def frame_slices(body: bytes, batch: Batch) -> dict[int, tuple[memoryview, memoryview]]:
    """Return (header, values) of each frame of `batch`, by its position in the batch.

    `batch` is what `decode` returned for `body`. Both parts are slices of `body`, without a copy;
    `read_frame` reads them.
    """
    at = _PREFIX.size + header_bytes(body)
    whole = memoryview(body)
    headers = _raw_decoder.decode(whole[_PREFIX.size : at]).records
    slices: dict[int, tuple[memoryview, memoryview]] = {}
    for position, (raw, record) in enumerate(zip(headers, batch.records, strict=True)):
        if isinstance(record, Frame):
            end = at + record.values.nbytes
            slices[position] = (memoryview(raw), whole[at:end])
            at = end
    return slices


def read_frame(header: bytes | memoryview, values: bytes | memoryview) -> Frame:
    """Return the frame of two slices of a body (`frame_slices`); its values are a view."""
    return _frame(_frame_decoder.decode(header), values, 0)


def merge_frames(records: tuple[Record, ...] | list[Record]) -> list[Record]:
    """Return the records with neighbouring frames of one stream and layout merged.

    Each captured step consists of one frame per stream, so frames between two other records are
    grouped by stream; the order within a stream is kept.
    """
    merged: list[Record] = []
    for is_frame, run in groupby(records, key=lambda record: isinstance(record, Frame)):
        if not is_frame:
            merged.extend(run)
            continue
        newest: dict[tuple[Stream, int, tuple[int, ...]], list[Frame]] = {}
        groups: list[list[Frame]] = []
        for frame in run:
            assert isinstance(frame, Frame)  # noqa: S101 - true by groupby's key; for mypy
            key = (frame.stream, frame.layout, frame.values.shape[1:])
            group = newest.get(key)
            # The steps of a frame increase: a step that is not larger starts a new frame.
            if group is None or group[-1].steps[-1] >= frame.steps[0]:
                group = newest[key] = []
                groups.append(group)
            group.append(frame)
        for frames in groups:
            if len(frames) == 1:
                merged.append(frames[0])
                continue
            merged.append(
                Frame(
                    frames[0].stream,
                    frames[0].layout,
                    np.concatenate([f.steps for f in frames]),
                    np.concatenate([f.times for f in frames]),
                    np.concatenate([f.values for f in frames]),
                )
            )
    return merged


def _records(header: _Header, blocks: memoryview, limits: Limits) -> tuple[Record, ...]:
    if len(header.records) > limits.records_max:
        raise _too_large("records", len(header.records), limits.records_max)
    # Check all counts first: a small header must not cause an allocation of gigabytes.
    values = 0
    for record in header.records:
        if isinstance(record, _FrameHeader):
            values += _check_frame(record, limits)
        elif isinstance(record, Layout):
            _check_layout(record, limits)
    if values > limits.values_max:
        raise _too_large("values", values, limits.values_max)
    if values * 4 != len(blocks):
        raise WireError(
            f"The frames need {values * 4} bytes of values; the body carries {len(blocks)}."
        )
    records: list[Record] = []
    at = 0
    for record in header.records:
        if not isinstance(record, _FrameHeader):
            records.append(record)
            continue
        frame = _frame(record, blocks, at)
        at += frame.values.nbytes
        records.append(frame)
    return tuple(records)


def _frame(header: _FrameHeader, blocks: bytes | memoryview, at: int) -> Frame:
    shape = (len(header.steps), header.places, header.statistics)
    values = np.frombuffer(blocks, dtype="<f4", count=math.prod(shape), offset=at)
    return Frame(
        header.stream,
        header.layout,
        np.array(header.steps, dtype=np.int64),
        np.array(header.times, dtype=np.float64),
        values.reshape(shape),
    )


def _check_identity(header: _Header, limits: Limits) -> None:
    if len(header.source) != SOURCE_BYTES:
        raise WireError(f"source is {SOURCE_BYTES} bytes; this batch has {len(header.source)}.")
    if not 0 <= header.seq < _STEP_MAX or not 0 <= header.rank < 2**31:
        raise WireError(f"seq and rank count from 0; got seq {header.seq}, rank {header.rank}.")
    if header.counted is not None and not 0 <= header.counted < _STEP_MAX:
        raise WireError(f"counted is a number of records from 0; got {header.counted}.")
    if not math.isfinite(header.sent_at):
        raise WireError("sent_at is not a finite time.")
    for word, name in (("run", header.run), ("project", header.project)):
        if not name:
            raise WireError(f"The batch names no {word}.")
        _check_name(word, name, limits)


def _check_frame(frame: _FrameHeader, limits: Limits) -> int:
    if not frame.steps or len(frame.steps) != len(frame.times):
        raise WireError(
            f"A frame has one time for each step, at least one; this one has {len(frame.steps)} "
            f"steps and {len(frame.times)} times."
        )
    if frame.places < 0 or frame.statistics < 1 or not 0 <= frame.layout < _STEP_MAX:
        raise WireError("A frame's places, statistics and layout lie between 0 and 2^53.")
    if frame.places > limits.places_max:
        raise _too_large("places", frame.places, limits.places_max)
    if frame.statistics > 256:
        raise _too_large("statistics", frame.statistics, 256)
    if frame.steps[0] < 0 or frame.steps[-1] >= _STEP_MAX:
        raise WireError(f"Steps lie between 0 and 2^53; got {frame.steps[0]}, {frame.steps[-1]}.")
    if any(a >= b for a, b in zip(frame.steps, frame.steps[1:], strict=False)):
        raise WireError("The steps of a frame must increase.")
    if not all(map(math.isfinite, frame.times)):
        raise WireError("A frame's times must be finite.")
    return len(frame.steps) * frame.places * frame.statistics


def _check_layout(layout: Layout, limits: Limits) -> None:
    if len(layout.places) > limits.places_max:
        raise _too_large("places", len(layout.places), limits.places_max)
    if not 0 <= layout.version < _STEP_MAX or not layout.statistics:
        raise WireError("A layout has a version from 0 to 2^53 and at least one statistic.")
    if len(set(layout.statistics)) != len(layout.statistics):
        raise WireError("A layout names a statistic twice.")
    names = [place.name for place in layout.places]
    if len(set(names)) != len(names):
        raise WireError("A layout names a place twice.")
    for place in layout.places:
        _check_place(place, limits)


def _check_place(place: Place, limits: Limits) -> None:
    for word, name in (
        ("place", place.name),
        ("kind", place.kind),
        ("module", place.module),
        ("module_kind", place.module_kind),
        ("nonlinearity", place.nonlinearity),
        *(("alias", alias) for alias in place.aliases),
        *(("flag", flag) for flag in place.flags),
    ):
        _check_name(word, name, limits)


def _check_name(word: str, name: str, limits: Limits) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise WireError(f"The name of a {word} is not valid Unicode.") from error
    if size > limits.name_bytes_max:
        raise _too_large(f"bytes in the name of a {word}", size, limits.name_bytes_max)
    if "\x00" in name:
        # PostgreSQL cannot store NUL.
        raise WireError(f"The name of a {word} contains a NUL character.")


def _too_large(what: str, got: int, limit: int) -> WireError:
    return WireError(
        f"{got} {what} in one batch; the limit is {limit}. Send smaller batches, or raise the "
        "limit on the collector.",
        reason="too_large",
    )
