"""GET /metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Response

from trainvitals_server.auth import Principal, Scope, ScopedRouter, allow
from trainvitals_server.problems import Problem, answers
from trainvitals_server.publish.exposition import Publisher

routes = ScopedRouter(tags=["metrics"])


@routes.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Every metric, as OpenMetrics or in the classic text format.",
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            },
        },
        **answers("unauthorised", "forbidden", "internal"),
    },
)
def metrics(request: Request, principal: Annotated[Principal, allow(Scope.READ)]) -> Response:
    """Answer a scrape. Needs a token of scope read that is not bound to one project."""
    if principal.project is not None:
        raise Problem(
            "forbidden",
            "This shows every project, and the token opens one. Make a token without a project.",
        )
    publisher: Publisher = request.app.state.publisher
    body, content_type = publisher.expose(request.headers.get("accept"))
    return Response(body, headers={"content-type": content_type})
