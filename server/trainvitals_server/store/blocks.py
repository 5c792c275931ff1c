"""Arrays to compressed blobs and back, bit for bit.

A block is split into byte planes (all first bytes, then all second bytes, …): the signs and
exponents of neighbouring numbers are alike, their low bits are noise, and kept apart they
compress well. Then zstd at level 1. Each blob carries its CRC beside it.
"""

from __future__ import annotations

import sys
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODEC: Final = 1
"""Byte planes, then zstd."""
_LEVEL: Final = 1


class CorruptBlock(Exception):  # noqa: N818 - a state of the disk
    """A stored block does not have the checksum it was stored with."""


def pack(block: npt.NDArray[Any]) -> tuple[bytes, int]:
    """Return (blob, CRC) of an array of any shape."""
    width = block.dtype.itemsize
    raw = np.ascontiguousarray(block).view(np.uint8).reshape(-1, width)
    blob = zstd.compress(np.ascontiguousarray(raw.T).tobytes(), _LEVEL)
    return blob, zlib.crc32(blob)


def unpack(
    blob: bytes, crc: int, *, dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """Return the array that `pack` was given.

    Raises:
        CorruptBlock: the blob is not what was stored, or not of this shape.
    """
    wanted = np.dtype(dtype)
    if zlib.crc32(blob) != crc:
        raise CorruptBlock(f"A block of {len(blob)} bytes fails its checksum {crc:08x}.")
    planes = np.frombuffer(zstd.decompress(blob), np.uint8)
    size = int(np.prod(shape)) * wanted.itemsize
    if len(planes) != size:
        raise CorruptBlock(f"A block holds {len(planes)} bytes instead of {size}.")
    raw = np.ascontiguousarray(planes.reshape(wanted.itemsize, -1).T)
    array: npt.NDArray[Any] = raw.reshape(-1).view(wanted).reshape(shape)
    return array
