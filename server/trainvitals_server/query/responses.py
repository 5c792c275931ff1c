"""Parameters, descriptions and JSON responses that the routes share."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Query, Request, Response

from trainvitals_server.auth import Principal, Scope, allow
from trainvitals_server.problems import problem_responses
from trainvitals_server.query.shapes import schema_of
from trainvitals_server.store import Store

Reader = Annotated[Principal, allow(Scope.READ)]
States = Annotated[
    str | None, Query(pattern="^(running|lost|finished|failed|stopped)$", description="Only these.")
]


def described(kind: type[Any], *reasons: str, also: str = "") -> dict[str, Any]:
    """Return the keywords of a route that answers `kind` or one of these problems.

    `also`: a binary content type that the route offers beside JSON.
    """
    problems = problem_responses("unauthorised", "forbidden", *reasons, "invalid", "internal")
    answer = schema_of(kind)
    if also:
        answer["content"][also] = {"schema": {"type": "string", "format": "binary"}}
    return {"response_class": Response, "responses": {200: answer, **problems}}


def json_response(answer: Any, headers: dict[str, str] | None = None) -> Response:
    """Return a struct as JSON."""
    # msgspec writes NaN and ±Inf as null.
    return Response(msgspec.json.encode(answer), media_type="application/json", headers=headers)


def store_of(request: Request) -> Store:
    """Return the collector's store."""
    store: Store = request.app.state.store
    return store
