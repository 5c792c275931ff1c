"""Keep less freed memory in the process of the collector."""

from __future__ import annotations

import ctypes
from typing import Final

ARENAS_MAX: Final = 2
MAPPED_FROM: Final = 2**20
"""Bytes from which a block is mapped by itself, and returned to the system when it is freed."""
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""The numbers of the parameters in glibc's malloc.h."""


def return_freed_memory() -> bool:
    """Set glibc's allocator to keep less of what is freed; return whether that was possible.

    Call it before threads start. By default each of the collector's threads gets an arena of its
    own, up to eight per core, and freed memory stays in the arena that it came from; the size from
    which blocks are mapped grows to 32 MiB with the largest block that was freed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    shares = mallopt(_M_ARENA_MAX, ARENAS_MAX)
    maps = mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM)
    return bool(shares and maps)
