"""Format a diagnosis as JSON: the fields of `trainvitals.api.schema.Diagnosis`, in order."""

from __future__ import annotations

import json

import msgspec

from trainvitals.api.schema import Diagnosis


def as_json(diagnosis: Diagnosis, *, indent: int = 2) -> str:
    """Return the diagnosis as JSON in ASCII. Numbers that are not finite become null."""
    encoded = msgspec.json.encode(diagnosis, enc_hook=float)  # numpy's numbers, as floats
    # ASCII: control characters in names must not reach a terminal.
    return json.dumps(json.loads(encoded), indent=indent, ensure_ascii=True)
