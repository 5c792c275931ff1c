"""Tables of programs: some run in `make test`, the others in `make test-all` only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest


def parameters(table: Mapping[str, Any], *, slow: Collection[str]) -> list[Any]:
    """Return the values as parameters with their names as ids; those in `slow` are marked slow.

    Raises AssertionError when a name in `slow` is not in the table, or when none is left.
    """
    assert set(slow) < set(table), f"not in the table, or all of it: {set(slow) - set(table)}"
    return [
        pytest.param(value, id=name, marks=[pytest.mark.slow] if name in slow else [])
        for name, value in table.items()
    ]
