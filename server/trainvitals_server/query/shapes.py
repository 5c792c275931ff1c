"""OpenAPI descriptions of the answers, generated from the structs of `trainvitals.api.schema`."""

from __future__ import annotations

import inspect
from typing import Any, Final

import msgspec

from trainvitals_server.problems import ProblemBody, problem_responses

ANY_REQUEST: Final = problem_responses(
    "bad_request", "host", "timeout", "headers_too_large", "busy"
)
"""What the connection answers before a request reaches its route."""


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a 200 answer of type `kind`."""
    schema = msgspec.json.schema(kind, ref_template="#/components/schemas/{name}")
    return {"description": "OK", "content": {"application/json": {"schema": schema}}}


def complete(api: dict[str, Any]) -> None:
    """Move the shapes of all answers to the components of a description, and add ANY_REQUEST.

    msgspec puts the shapes beside the reference to them, where OpenAPI does not look for them. Up
    to 0.22 it leaves the indentation of the code in their descriptions.
    """
    shapes = api["components"]["schemas"]
    shapes["ProblemBody"] = ProblemBody.model_json_schema()
    for operations in api["paths"].values():
        for operation in operations.values():
            answers = operation["responses"]
            for answer in answers.values():
                for content in answer.get("content", {}).values():
                    for name, shape in content["schema"].pop("$defs", {}).items():
                        text = inspect.cleandoc(shape.get("description", ""))
                        shapes.setdefault(name, shape | ({"description": text} if text else {}))
            for status, answer in ANY_REQUEST.items():
                answers.setdefault(str(status), answer)
