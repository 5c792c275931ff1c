"""The format of a spool's segment: frames, each with a checksum and the segment's salt.

A frame is magic u32, length u32, crc u32, seq u64, records u32, salt 8 bytes, payload. The CRC
covers all fields after it. All frames of a segment have the same salt: bytes of an older segment
in a reused disk block have another salt and are ignored. Reading returns every complete frame,
searches for the next magic after a damaged frame, and ignores an incomplete frame at the end.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Final

MAGIC: Final = 0x54565351
SALT_BYTES: Final = 8
PAYLOAD_BYTES_MAX: Final = 16 * 2**20
_HEAD: Final = struct.Struct("<IIIQI8s")
_CHECKED: Final = struct.Struct("<QI8s")
_MAGIC_BYTES: Final = struct.pack("<I", MAGIC)


@dataclass(frozen=True)
class Spooled:
    """One encoded batch. `records` is the number of its records that came from the buffer."""

    seq: int
    records: int
    payload: bytes


def frame_of(batch: Spooled, salt: bytes) -> bytes:
    """Return the frame of a batch."""
    crc = _crc(salt, batch.seq, batch.records, batch.payload)
    head = _HEAD.pack(MAGIC, len(batch.payload), crc, batch.seq, batch.records, salt)
    return head + batch.payload


def frames_of(segment: bytes) -> list[Spooled]:
    """Return the batches of every complete frame of a segment, in order."""
    found: list[tuple[bytes, Spooled]] = []
    at = 0
    while (at := segment.find(_MAGIC_BYTES, at)) >= 0:
        if at + _HEAD.size > len(segment):
            break
        _, length, crc, seq, records, salt = _HEAD.unpack_from(segment, at)
        payload = segment[at + _HEAD.size : at + _HEAD.size + min(length, PAYLOAD_BYTES_MAX)]
        if len(payload) == length and _crc(salt, seq, records, payload) == crc:
            found.append((salt, Spooled(seq, records, payload)))
            at += _HEAD.size + length
        else:
            at += 1
    if not found:
        return []
    # The first of the most common salts: a single old frame at the end does not win a tie.
    [(expected, _)] = Counter(salt for salt, _ in found).most_common(1)
    return [batch for salt, batch in found if salt == expected]


def _crc(salt: bytes, seq: int, records: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_CHECKED.pack(seq, records, salt)))
