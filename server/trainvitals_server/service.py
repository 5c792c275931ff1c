"""Routes about the collector itself: liveness, readiness, version, metrics, service discovery."""

from __future__ import annotations

import platform
import sqlite3
from importlib.metadata import version
from typing import Annotated, Any, Final

from fastapi import Request, Response
from pydantic import BaseModel
from starlette.responses import JSONResponse

from trainvitals.wire import NEWEST_VERSION, OLDEST_VERSION
from trainvitals_server.auth import Principal, Scope, ScopedRouter, allow
from trainvitals_server.auth.router import OPEN
from trainvitals_server.problems import Problem, problem_responses
from trainvitals_server.publish.counters import IngestCounters
from trainvitals_server.publish.exposition import Publisher
from trainvitals_server.settings import Settings
from trainvitals_server.store import Store

routes = ScopedRouter(tags=["service"])

RESCUE: Final = "The database is damaged and open for rescue: it is only read, nothing is stored."

Reader = Annotated[Principal, allow(Scope.READ)]
Sender = Annotated[Principal, allow(Scope.INGEST)]
_CLOSED = problem_responses("unauthorised", "forbidden")


class Alive(BaseModel):
    """The process is alive."""

    status: str = "alive"


class Version(BaseModel):
    """The versions of the collector and its database."""

    version: str
    python: str
    database: str
    wire: list[int]
    """Oldest and newest supported wire version."""
    rescue: bool = False
    """The database is damaged and only read; no batch is stored."""


@routes.get("/healthz", dependencies=[OPEN], responses=problem_responses("not_ready"))
async def healthz(request: Request) -> Alive:
    """Report that the process is alive and its writer works. Requires no token."""
    store: Store = request.app.state.store
    if store.database.failed() is not None:
        # Without the cause: this route is open. The log and /readyz have it.
        raise Problem("not_ready", "The database has failed; the collector stops.")
    return Alive()


@routes.get("/readyz", responses={**_CLOSED, **problem_responses("not_ready")})
def readyz(request: Request, principal: Reader) -> Alive:  # noqa: ARG001 - declares the scope
    """Report whether batches can be stored now.

    On a full disk they cannot, until a batch is stored or no batch has been refused for a minute.
    Reading goes on, and `/healthz` is 200: a restart would not help.
    """
    _require_ready(request)
    return Alive(status="ready")


@routes.get("/api/v1/ingest/ready", responses={**_CLOSED, **problem_responses("not_ready")})
def ingest_ready(request: Request, principal: Sender) -> Alive:  # noqa: ARG001 - the scope
    """Report whether batches can be stored now, to a process that sends them: as `/readyz`.

    After five failures in a row it asks this before it sends a batch of up to 2 MiB again.
    """
    _require_ready(request)
    return Alive(status="ready")


def _require_ready(request: Request) -> None:
    """Raise a Problem with the reason when batches cannot be stored."""
    store: Store = request.app.state.store
    settings: Settings = request.app.state.settings
    if settings.rescue:
        raise Problem("not_ready", RESCUE)
    trouble = store.ready()
    waiting = store.database.waiting_bytes
    if trouble is None and waiting > settings.queue_bytes_max // 2:
        trouble = f"{waiting} bytes are in the write queue."
    counters: IngestCounters = request.app.state.ingest_counters
    if trouble is None and counters.disk_full:
        trouble = "The disk is full: the newest batch was refused. Reading goes on."
    if trouble is not None:
        raise Problem("not_ready", trouble)


@routes.get("/version", responses=_CLOSED)
def shown_version(request: Request, principal: Reader) -> Version:  # noqa: ARG001 - the scope
    """Return the versions of the collector and its database."""
    store: Store = request.app.state.store
    engine = store.database.dialect
    return Version(
        version=version("trainvitals"),
        python=platform.python_version(),
        database=f"sqlite {sqlite3.sqlite_version}" if engine == "sqlite" else engine,
        wire=[OLDEST_VERSION, NEWEST_VERSION],
        rescue=request.app.state.settings.rescue,
    )


class TargetGroup(BaseModel):
    """Scrape targets in the format of Prometheus' HTTP service discovery."""

    targets: list[str]
    """HOST:PORT of each collector."""
    labels: dict[str, str]


@routes.get("/api/v1/prometheus/targets", responses=_CLOSED)
def prometheus_targets(request: Request, principal: Reader) -> list[TargetGroup]:  # noqa: ARG001
    """Return the collectors that Prometheus should scrape: `http_sd_configs` reads this.

    They are those of the setting `prometheus_targets`; without it, this collector, under the
    address of the request.
    """
    settings: Settings = request.app.state.settings
    targets = list(settings.prometheus_targets) or [request.url.netloc]
    labels = {"__scheme__": request.url.scheme, "__metrics_path__": "/metrics"}
    return [TargetGroup(targets=targets, labels=labels)]


@routes.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_CLOSED},
)
def metrics(request: Request, principal: Reader) -> Response:
    """Return the metrics of the collector and its runs, for Prometheus."""
    if principal.project is not None:
        raise Problem("forbidden", "/metrics contains all projects; this token allows only one.")
    publisher: Publisher = request.app.state.publisher
    body, content_type = publisher.expose(request.headers.get("accept"))
    return Response(body, headers={"Content-Type": content_type})


@routes.get("/openapi.json", include_in_schema=False, response_class=Response)
def openapi(request: Request, principal: Reader) -> Response:  # noqa: ARG001 - the scope
    """Return the OpenAPI description of this API."""
    described: dict[str, Any] = request.app.openapi()
    return JSONResponse(described)
