"""The collector as one FastAPI app: what is started, what is mounted, what is stopped.

Start at `create_app`. State that routes need is on `app.state`: settings, store, tokens,
ingest_counters, rounds, publisher.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from importlib.metadata import entry_points, version
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from trainvitals.diagnosis.examine import Engine
from trainvitals_server import problems, service
from trainvitals_server.auth import Tokens
from trainvitals_server.auth.router import refuse_unscoped
from trainvitals_server.collect import routes as collect_routes
from trainvitals_server.hosts import HostAllowList, allowed_hosts
from trainvitals_server.publish.counters import IngestCounters
from trainvitals_server.publish.exposition import Publisher
from trainvitals_server.query import routes as query_routes
from trainvitals_server.rounds import Rounds
from trainvitals_server.settings import Settings
from trainvitals_server.store import Store
from trainvitals_server.store.seal import Compactor

log = logging.getLogger(__name__)

MOUNTS = "trainvitals.mounts"
"""Entry points: name → factory(collector_url=, token_file=) of an ASGI app served at /."""


def create_app(settings: Settings | None = None, *, mounts: bool = False) -> FastAPI:
    """Return the app. `mounts`: with the dashboard, where it is installed.

    Nothing is opened before the app starts: its lifespan opens the store, makes the first token
    and starts compactor and rounds, and ends them again.
    """
    settings = settings or Settings()
    mounted = _mounted(settings) if mounts else []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await run_in_threadpool(_start, app, settings)
            stack.push_async_callback(run_in_threadpool, _stop, app)
            for inner in mounted:
                # Starlette does not start what is mounted.
                if (context := getattr(inner, "lifespan", None)) is not None:
                    await stack.enter_async_context(context()(app))
            yield

    app = FastAPI(
        title="trainvitals collector",
        version=version("trainvitals"),
        summary="The vital signs of PyTorch training runs.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.ingest_counters = IngestCounters()
    problems.install(app)
    for router in (service.routes, collect_routes.routes, query_routes.routes, query_routes.rules):
        app.include_router(router)
    refuse_unscoped(app)
    for inner in mounted:
        app.mount("/", inner)
    app.add_middleware(HostAllowList, allowed=allowed_hosts(settings))
    return app


def _start(app: FastAPI, settings: Settings) -> None:
    state = app.state
    state.store = Store.open(settings.database, queue_bytes_max=settings.queue_bytes_max)
    state.tokens = Tokens(state.store.database)
    if state.tokens.ensure_first(settings.token_path):
        log.info("Made an admin token, only you can read it: %s", settings.token_path)
    state.compactor = Compactor(state.store.database, interval_s=settings.seal_interval_s)
    state.compactor.start()
    state.rounds = Rounds(
        state.store,
        Engine(),
        interval_s=settings.round_interval_s,
        lost_after_s=settings.lost_after_s,
    )
    state.publisher = Publisher(
        state.store,
        state.rounds,
        state.ingest_counters,
        queue_bytes=lambda: state.store.database.waiting_bytes,
    )
    state.rounds.start()


def _stop(app: FastAPI) -> None:
    app.state.rounds.stop()
    app.state.compactor.stop()
    app.state.store.close()


def _mounted(settings: Settings) -> list[Any]:
    return [
        entry.load()(collector_url=settings.url, token_file=settings.token_path)
        for entry in entry_points(group=MOUNTS)
    ]
