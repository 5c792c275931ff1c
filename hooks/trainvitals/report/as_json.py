"""A diagnosis as JSON: the same fields, in the same order, as `Diagnosis` and `Finding` have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

from trainvitals.diagnosis.finding import Diagnosis, Finding


def as_json(diagnosis: Diagnosis, *, indent: int | None = 2) -> str:
    """Return the diagnosis as JSON. Numbers that are not finite become null: JSON has none."""
    return json.dumps(as_dict(diagnosis), indent=indent, ensure_ascii=True, allow_nan=False)


def as_dict(value: Diagnosis | Finding) -> dict[str, Any]:
    """Return a diagnosis or a finding as what JSON knows: dicts, lists, numbers, text, None."""
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}


def _plain(value: object) -> Any:
    match value:
        case Diagnosis() | Finding():
            return as_dict(value)
        case Enum():
            return value.value
        case str() | bool() | int() | None:
            return value
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
    # What is left is a number: Python's float, or numpy's of any width.
    number = float(value)  # type: ignore[arg-type]  # raises TypeError for anything else
    return number if math.isfinite(number) else None
