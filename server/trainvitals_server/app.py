"""The collector as one FastAPI app: its routes, what it starts, mounts and stops.

Start at `create_app`. State that routes need is on `app.state`: settings, store, tokens,
token_file, ingest_counters, rounds, notifier, publisher.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from msgspec import MsgspecError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from starlette.concurrency import run_in_threadpool

from trainvitals_server import problems, service
from trainvitals_server.auth import Tokens
from trainvitals_server.auth import routes as token_routes
from trainvitals_server.auth.rescue_tokens import RescueTokens, rescue_token_file
from trainvitals_server.auth.router import refuse_unscoped
from trainvitals_server.auth.token_file import ensure_token_file, own_token_file
from trainvitals_server.collect import routes as collect_routes
from trainvitals_server.collect.body import ByteBudget
from trainvitals_server.hosts import HostAllowList, allowed_hosts
from trainvitals_server.notifications.notifier import Notifier
from trainvitals_server.publish.counters import IngestCounters
from trainvitals_server.publish.exposition import Publisher
from trainvitals_server.query import alerts as alert_routes
from trainvitals_server.query import changes as change_routes
from trainvitals_server.query import latest as latest_routes
from trainvitals_server.query import reports as report_routes
from trainvitals_server.query import routes as query_routes
from trainvitals_server.query import settings as setting_routes
from trainvitals_server.query import silences as silence_routes
from trainvitals_server.query.heavy import HeavyReads
from trainvitals_server.query.shapes import complete
from trainvitals_server.rounds import Rounds, engine_of
from trainvitals_server.settings import Settings
from trainvitals_server.store import Store
from trainvitals_server.store.compression import CorruptBlock
from trainvitals_server.store.database import is_disk_full
from trainvitals_server.store.migrate import parsed
from trainvitals_server.store.rescue import ReadOnly, open_rescue
from trainvitals_server.store.retention import RetentionLimits
from trainvitals_server.store.seal import Compactor
from trainvitals_server.store.series_limits import SeriesLimits

log = logging.getLogger(__name__)

MOUNTS = "trainvitals.mounts"
"""Entry points: name → factory(collector_url=, token_file=) of an ASGI app served at /."""


class _Collector(FastAPI):
    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        complete(described)
        return described


def create_app(settings: Settings | None = None, *, mounts: bool = False) -> FastAPI:
    """Return the app. `mounts`: with the dashboard, where it is installed.

    Nothing is opened before the app starts: its lifespan opens the store, creates the first token,
    starts the compactor and the rounds, and stops them at the end.
    """
    settings = settings or Settings()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await run_in_threadpool(_start, app, settings)
            stack.push_async_callback(run_in_threadpool, _stop, app)
            app.state.heavy_reads = HeavyReads()
            stack.callback(app.state.heavy_reads.close)
            app.state.curve_reads = HeavyReads(waiting=64)
            stack.callback(app.state.curve_reads.close)
            for inner in _mounted(settings, app.state.token_file) if mounts else []:
                app.mount("/", inner)
                # Starlette does not run the lifespan of a mounted app.
                if (context := getattr(inner, "lifespan", None)) is not None:
                    await stack.enter_async_context(context()(app))
            yield

    app = _Collector(
        title="trainvitals collector",
        version=version("trainvitals"),
        summary="The vital signs of PyTorch training runs.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.receiving = ByteBudget(settings.queue_bytes_max)
    counters = app.state.ingest_counters = IngestCounters()

    def count(request: Request, reason: str) -> None:
        # Here and not in the route: a request without a valid token does not reach the route.
        if request.scope["path"] == collect_routes.INGEST_PATH:
            counters.refused(reason)

    problems.install(app, count)

    @app.exception_handler(DBAPIError)
    async def database_failed(request: Request, error: DBAPIError) -> Response:
        if settings.rescue:
            return damaged(request, error)
        if is_disk_full(error):
            count(request, "disk_full")
            return problems.problem_response(
                "disk_full",
                "The collector's disk is full; nothing of this request is stored. Send it again.",
                {"Retry-After": "30"},
            )
        if not settings.database.startswith("postgres"):
            raise error  # SQLite: a failure of the disk; the collector stops
        if not isinstance(error, OperationalError | InterfaceError):
            raise error
        count(request, "database_away")
        return problems.problem_response(
            "database_away",
            "Postgres does not respond; nothing of this request is stored. Send it again.",
            {"Retry-After": "5"},
        )

    @app.exception_handler(ReadOnly)
    async def only_read(request: Request, _: ReadOnly) -> Response:
        count(request, "rescue")
        return problems.problem_response(
            "rescue",
            f"{service.RESCUE} Keep the batch and send it again later.",
            {"Retry-After": "60"},
        )

    if settings.rescue:
        app.add_exception_handler(CorruptBlock, damaged)
        app.add_exception_handler(MsgspecError, damaged)

    for router in (
        service.routes,
        collect_routes.routes,
        query_routes.routes,
        latest_routes.routes,
        report_routes.routes,
        change_routes.routes,
        query_routes.rules,
        alert_routes.routes,
        silence_routes.routes,
        setting_routes.routes,
        token_routes.routes,
    ):
        app.include_router(router)
    refuse_unscoped(app)
    app.add_middleware(HostAllowList, allowed=allowed_hosts(settings), count=counters.refused)
    return app


def damaged(request: Request, error: Exception) -> Response:
    """Answer that a part of a damaged database cannot be read."""
    log.warning("%s cannot be answered: %s", request.scope["path"], error)
    return problems.problem_response("damaged", "This part of the database cannot be read.")


def _open(state: Any, settings: Settings) -> None:
    """Open the store, and find or create the token file."""
    own = own_token_file(parsed(settings.database), settings.home_path)
    if settings.rescue:
        state.store = Store(open_rescue(parsed(settings.database)))
        state.tokens = RescueTokens(state.store.database)
        own = own.with_name(f"{own.name}.rescue")
        state.token_file = rescue_token_file(state.tokens, settings.token_path, own)
        return
    state.store = Store.open(
        settings.database,
        queue_bytes_max=settings.queue_bytes_max,
        durability=settings.durability,
        limits=SeriesLimits(settings.run_series_max, settings.series_max),
    )
    if settings.durability == "fast":
        log.warning("durability = fast: a power cut can lose acknowledged batches.")
    state.tokens = Tokens(state.store.database)
    state.token_file = ensure_token_file(state.tokens, settings.token_path, own)


def _start(app: FastAPI, settings: Settings) -> None:
    state = app.state
    _open(state, settings)
    state.compactor = Compactor(
        state.store.database,
        interval_s=settings.seal_interval_s,
        limits=RetentionLimits(
            stream_bytes=settings.retain_stream_bytes,
            run_bytes=settings.retain_run_bytes,
            total_bytes=settings.retain_total_bytes,
            ended_days=settings.retain_ended_days,
            deleted_days=settings.retain_deleted_days,
        ),
    )
    state.rounds = Rounds(
        state.store,
        engine_of(settings.rules),
        interval_s=settings.round_interval_s,
        lost_after_s=settings.lost_after_s,
        scalars=settings.metrics_scalars,
    )
    state.notifier = Notifier(state.store, settings.notifications)
    state.publisher = Publisher(
        state.store,
        state.rounds,
        state.ingest_counters,
        queue_bytes=lambda: state.store.database.waiting_bytes,
        detail=settings.metrics_detail,
        notifications=state.notifier.counts,
    )
    if not settings.rescue:
        state.compactor.start()
        state.rounds.start()
        state.notifier.start()


def _stop(app: FastAPI) -> None:
    app.state.notifier.stop()
    app.state.rounds.stop()
    app.state.compactor.stop()
    app.state.store.close()


def _mounted(settings: Settings, token_file: Path) -> list[Any]:
    return [
        entry.load()(collector_url=settings.url, token_file=token_file)
        for entry in entry_points(group=MOUNTS)
    ]
