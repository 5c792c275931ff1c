"""Arrays to compressed blobs and back, bit for bit.

The bytes of a block are shuffled (all first bytes, then all second bytes, …), because signs and
exponents of neighbouring numbers are similar while their low bits are noise. The shuffled bytes are
compressed with zstd at level 1. A CRC is stored with each blob.
"""

from __future__ import annotations

import sys
import threading
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LEVEL: Final = 1


class CorruptBlock(Exception):  # noqa: N818
    """A stored block does not have the checksum it was stored with."""


_local = threading.local()


def planes(block: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the bytes of an array: plane i has byte i of each number, in the array's shape."""
    raw = np.ascontiguousarray(block).view(np.uint8).reshape(*block.shape, block.dtype.itemsize)
    made = np.empty((block.dtype.itemsize, *block.shape), np.uint8)
    for i, plane in enumerate(made):
        plane[...] = raw[..., i]
    return made


def pack(block: npt.NDArray[Any]) -> tuple[bytes, int]:
    """Return (blob, CRC) of an array of any shape."""
    return pack_planes(planes(block))


def pack_planes(shuffled: npt.NDArray[np.uint8]) -> tuple[bytes, int]:
    """Return (blob, CRC) of the array that has these planes (`planes`), or a part of them."""
    # A new compressor for each block would need as long as the compression of a small block.
    compressor = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstd.ZstdCompressor(_LEVEL)
    blob = compressor.compress(shuffled.tobytes(), zstd.ZstdCompressor.FLUSH_FRAME)
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
        raise CorruptBlock(f"A block of {len(blob)} bytes does not match its checksum {crc:08x}.")
    shuffled = np.frombuffer(zstd.decompress(blob), np.uint8)
    size = int(np.prod(shape)) * wanted.itemsize
    if len(shuffled) != size:
        raise CorruptBlock(f"A block holds {len(shuffled)} bytes instead of {size}.")
    raw = np.ascontiguousarray(shuffled.reshape(wanted.itemsize, -1).T)
    array: npt.NDArray[Any] = raw.reshape(-1).view(wanted).reshape(shape)
    return array
