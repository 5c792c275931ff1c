"""Keep less freed memory in the process of the collector."""

from __future__ import annotations

import ctypes
from typing import Final

ARENAS_MAX: Final = 2
_M_ARENA_MAX: Final = -8
"""The number of the parameter in glibc's malloc.h."""


def limit_arenas() -> bool:
    """Let all threads share two arenas of glibc's allocator; return whether that was possible.

    Call it before threads start. By default each of the collector's threads gets an arena of its
    own, up to eight per core, and freed memory stays in the arena that it came from.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, ARENAS_MAX) == 1
