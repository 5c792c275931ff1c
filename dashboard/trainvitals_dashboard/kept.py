"""Answers that a client keeps, and the memory that they take.

An answer is decoded into lists of numbers, which take 3 to 30 times the bytes of its body: a limit
on the bodies is no limit on the memory of the process.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

NUMBER_BYTES = 24
"""A float of Python; the list that holds it has 8 bytes more for the pointer."""


@dataclass
class Kept:
    """An answer, its time of receipt, what it is valid for, and the memory that it takes."""

    value: Any
    at: float
    version: object
    etag: str
    size: int
    """Bytes, from `memory_of`."""


def memory_of(value: object) -> int:
    """Return the memory of a decoded answer in bytes, up to a third more than measured.

    Each number of a list counts as an object of its own. Shared objects are counted each time.
    """
    size = sys.getsizeof(value)
    if isinstance(value, msgspec.Struct):
        return size + sum(memory_of(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, Mapping):
        return size + sum(memory_of(k) + memory_of(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        if value and all(x is None or type(x) in (int, float) for x in value):
            return size + NUMBER_BYTES * len(value)
        return size + sum(map(memory_of, value))
    return size
