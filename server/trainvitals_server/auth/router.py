"""A router that registers only routes that declare a scope.

    routes = ScopedRouter(prefix="/api/v1")

    @routes.get("/runs")
    def runs(principal: Annotated[Principal, allow(Scope.READ)]) -> …

The check is a dependency of the route itself and does not depend on the path of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from trainvitals_server.auth.tokens import Scope, Tokens
from trainvitals_server.problems import Problem


@dataclass(frozen=True)
class Principal:
    """The token that a request was made with."""

    token_id: str
    scope: Scope
    project: str | None

    def sees(self, project: str) -> bool:
        """Whether the token gives access to this project."""
        return self.project is None or self.project == project


@dataclass(frozen=True)
class Requires:
    """The dependency that checks the token of a request: answers 401 or 403 if it fails."""

    scope: Scope

    async def __call__(self, request: Request) -> Principal:
        """Return the principal of the request."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        tokens: Tokens = request.app.state.tokens
        granted = None
        if kind.lower() == "bearer" and (token := token.strip()):
            granted = tokens.remembered(token) or await run_in_threadpool(tokens.check, token)
        if granted is None:
            raise Problem(
                "unauthorised",
                "Send `Authorization: Bearer tv_…` with a token of this collector. To create one, "
                f"run `trainvitals token create {self.scope}` on the collector's machine with the "
                "collector's settings (TRAINVITALS_HOME, or --database).",
                headers={"WWW-Authenticate": 'Bearer realm="trainvitals"'},
            )
        if not granted.scope.includes(self.scope):
            raise Problem(
                "forbidden",
                f"A token of scope {self.scope} is required; this token has scope {granted.scope}.",
            )
        return Principal(granted.id, granted.scope, granted.project)


class Open:
    """The dependency of a route that requires no token. Only /healthz has it."""

    def __call__(self) -> None:
        """Allow the request."""


def allow(scope: Scope) -> Any:
    """Return the dependency that allows requests with a token of `scope`."""
    return Depends(Requires(scope))


OPEN = Depends(Open())


class ScopedRouter(APIRouter):
    """An APIRouter that refuses routes without a scope."""

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Register a route.

        Raises:
            TypeError: it declares no scope.
        """
        super().add_api_route(path, endpoint, **options)
        route = self.routes[-1]
        if not isinstance(route, APIRoute) or not any(_guards(route.dependant)):
            self.routes.remove(route)
            raise TypeError(f"{path} declares no scope: add `allow(Scope.…)` as a dependency.")


def _guards(dependant: Dependant) -> Iterator[Requires | Open]:
    for dependency in dependant.dependencies:
        if isinstance(dependency.call, Requires | Open):
            yield dependency.call
        yield from _guards(dependency)


def refuse_unscoped(app: FastAPI) -> None:
    """Raise TypeError when `app` has a route that was not registered by a ScopedRouter."""
    for route in app.routes:
        router = getattr(route, "original_router", None)
        if not isinstance(router, ScopedRouter):
            raise TypeError(f"{route} was not registered by a ScopedRouter.")
