"""Batches on disk while nobody takes them: append-only segments, one folder a source.

A segment is 16 bytes of salt, then frames: magic u32, length u32, crc u32, seq u64, records u32,
payload. The CRC is over salt, seq, records and payload, so a frame of a reused block is no frame.
Reading takes every whole frame, seeks the next magic after a bad one, and takes the tail of the
last segment as torn. After a write error a new segment begins.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

MAGIC: Final = 0x54565350
_HEAD: Final = struct.Struct("<IIIQI")
_MAGIC_BYTES: Final = struct.pack("<I", MAGIC)
SALT_BYTES: Final = 16
SEGMENT_BYTES_MAX: Final = 4 * 2**20
PAYLOAD_BYTES_MAX: Final = 16 * 2**20


@dataclass(frozen=True)
class Spooled:
    """One batch on disk."""

    seq: int
    records: int
    payload: bytes


class SpoolFull(Exception):  # noqa: N818 - a state, told by its name
    """The batch would pass the spool's limit."""


class Spool:
    """The folder of one source, locked by its owner; oldest batch first.

    The whole queue is read back segment by segment: `first` gives the oldest batch, `done` takes it
    away. A crash between sending and `done` sends a batch twice; the collector counts it once.
    """

    def __init__(self, folder: Path, bytes_max: int) -> None:
        """Open or make `folder`. Raises BlockingIOError when another process owns it."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.bytes_max = bytes_max
        self._lock: IO[bytes] = (folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise
        self._writing: IO[bytes] | None = None
        self._salt = b""
        self._read: list[Spooled] = []
        self._reading: Path | None = None

    def append(self, seq: int, records: int, payload: bytes) -> None:
        """Write a batch at the end. Raises SpoolFull, or OSError when the disk refuses."""
        if self.size() + len(payload) + _HEAD.size > self.bytes_max:
            raise SpoolFull(f"the spool in {self.folder} has reached {self.bytes_max} bytes")
        try:
            file = self._segment()
            crc = _crc(self._salt, seq, records, payload)
            file.write(_HEAD.pack(MAGIC, len(payload), crc, seq, records))
            file.write(payload)
            file.flush()
        except OSError:
            self._end_segment()
            raise

    def first(self) -> Spooled | None:
        """Return the oldest batch, None when the spool is empty."""
        while not self._read:
            segments = self._segments()
            if not segments:
                return None
            if self._writing is not None and segments[0] == Path(self._writing.name):
                self._end_segment()
            self._reading = segments[0]
            self._read = list(frames_of(self._reading.read_bytes()))
            if not self._read:
                self._reading.unlink(missing_ok=True)
        return self._read[0]

    def done(self) -> None:
        """Take the batch that `first` gave away."""
        self._read.pop(0)
        if not self._read and self._reading is not None:
            self._reading.unlink(missing_ok=True)
            self._reading = None

    def is_empty(self) -> bool:
        """Whether no batch waits."""
        return self.first() is None

    def records(self) -> int:
        """Return how many records wait on disk."""
        waiting = sum(s.records for s in self._read)
        for path in self._segments():
            if path != self._reading:
                waiting += sum(s.records for s in frames_of(path.read_bytes()))
        return waiting

    def size(self) -> int:
        """Return the bytes on disk."""
        return sum(path.stat().st_size for path in self._segments())

    def close(self) -> None:
        """Give the folder back; remove it when nothing waits in it."""
        self._end_segment()
        if not self._segments():
            for path in (self.folder / "lock", self.folder):
                try:
                    path.unlink() if path.is_file() else path.rmdir()
                except OSError:
                    break  # rejected batches stay: the folder is kept for them
        self._lock.close()

    def forget(self) -> None:
        """In a forked child: close the descriptors; the lock stays the parent's."""
        for file in (self._writing, self._lock):
            if file is not None:
                os.close(file.fileno())

    def reject(self, spooled: Spooled) -> None:
        """Keep a batch that the collector refuses for good, for a person to look at."""
        folder = self.folder / "rejected"
        folder.mkdir(exist_ok=True, mode=0o700)
        (folder / f"{spooled.seq:012d}.batch").write_bytes(spooled.payload)

    def _segments(self) -> list[Path]:
        return sorted(self.folder.glob("*.segment"))

    def _segment(self) -> IO[bytes]:
        if self._writing is not None and self._writing.tell() > SEGMENT_BYTES_MAX:
            self._end_segment()
        if self._writing is None:
            segments = self._segments()
            number = int(segments[-1].stem) + 1 if segments else 0
            self._salt = secrets.token_bytes(SALT_BYTES)
            self._writing = (self.folder / f"{number:08d}.segment").open("wb")
            self._writing.write(self._salt)
        return self._writing

    def _end_segment(self) -> None:
        if self._writing is not None:
            file, self._writing = self._writing, None
            file.close()


def frames_of(segment: bytes) -> Iterator[Spooled]:
    """Yield every whole frame of a segment; what lies between is passed over."""
    salt, at = segment[:SALT_BYTES], SALT_BYTES
    while (at := segment.find(_MAGIC_BYTES, at)) >= 0:
        if at + _HEAD.size > len(segment):
            return
        _, length, crc, seq, records = _HEAD.unpack_from(segment, at)
        payload = segment[at + _HEAD.size : at + _HEAD.size + length]
        whole = length <= PAYLOAD_BYTES_MAX and len(payload) == length
        if whole and _crc(salt, seq, records, payload) == crc:
            yield Spooled(seq, records, payload)
            at += _HEAD.size + length
        else:
            at += 1


def orphans(spool_dir: Path, bytes_max: int) -> Iterator[Spool]:
    """Yield the spools of processes that are gone, opened: the lock of the living is held."""
    if not spool_dir.is_dir():
        return
    for folder in sorted(spool_dir.iterdir()):
        if not folder.is_dir():
            continue
        try:
            spool = Spool(folder, bytes_max)
        except OSError:
            continue  # its owner lives
        if spool.is_empty():
            spool.close()
        else:
            yield spool


def _crc(salt: bytes, seq: int, records: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(salt + struct.pack("<QI", seq, records)))
