"""OpenAPI descriptions of the answers, generated from the structs of `trainvitals.api.schema`."""

from __future__ import annotations

from typing import Any

import msgspec


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a 200 answer of type `kind`."""
    schema = msgspec.json.schema(kind, ref_template="#/components/schemas/{name}")
    return {"description": "OK", "content": {"application/json": {"schema": schema}}}
