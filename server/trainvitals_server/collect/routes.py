"""POST /api/v1/ingest: store one batch; respond after it is committed, and synced by default."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Annotated, Final

from fastapi import Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from trainvitals.wire import CONTENT_TYPE, Batch, WireError, decode
from trainvitals.wire.codec import Limits, header_bytes
from trainvitals_server.auth import Principal, Scope, ScopedRouter, allow
from trainvitals_server.collect.body import ByteBudget, Held, inflate, read_body
from trainvitals_server.problems import Problem, problem_responses
from trainvitals_server.publish.counters import IngestCounters
from trainvitals_server.settings import Settings
from trainvitals_server.store import Ack, QueueFull, RequestRefused, Store
from trainvitals_server.store.types import Durability

routes = ScopedRouter(prefix="/api/v1", tags=["ingest"])
INGEST_PATH: Final = "/api/v1/ingest"
SMALL_BYTES: Final = 512 * 1024
SMALL_HEADER_BYTES: Final = 32 * 1024
"""Uncompressed batches up to these sizes are decoded in the event loop, in less than a
millisecond. A change of threads costs more than that."""


class AckBody(BaseModel):
    """The batch is stored."""

    source: str = Field(description="The source of the batch, 32 hexadecimal digits.")
    seq: int = Field(description="The sequence number of the batch.")
    stored: bool = Field(description="False when the batch had already been stored.")
    durability: Durability = Field(
        description="full: committed and synced to disk. fast: committed; a power cut can lose it."
    )


@routes.post(
    "/ingest",
    response_model=AckBody,
    responses=problem_responses(
        "malformed",
        "wire_version",
        "unknown_layout",
        "shape_mismatch",
        "unauthorised",
        "forbidden",
        "timeout",
        "conflict",
        "run_deleted",
        "run_in_other_project",
        "too_large",
        "unsupported_media_type",
        "too_many_series",
        "queue_full",
        "collector_full",
        "disk_full",
        "rescue",
        "internal",
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def ingest(
    request: Request, principal: Annotated[Principal, allow(Scope.INGEST)]
) -> Response:
    """Store one batch. A repeat of a stored batch succeeds and changes nothing."""
    settings: Settings = request.app.state.settings
    _check_media_type(request)
    receiving: ByteBudget = request.app.state.receiving
    counters: IngestCounters = request.app.state.ingest_counters
    store: Store = request.app.state.store
    with receiving.hold() as held:
        body = await read_body(
            request, held, bytes_max=settings.body_bytes_max, deadline_s=settings.request_deadline_s
        )
        begin = partial(_begin, request, principal, body, held)
        with _refusals():
            fast = _is_small(request, body)
            batch, stored = begin() if fast else await run_in_threadpool(begin)
            # No thread waits for the disk.
            with counters.writing():
                ack = await asyncio.wrap_future(stored)
    counters.accepted(batch, len(body), stored=ack.stored, now=time.time())
    # Without pydantic, which takes as long as decoding the batch.
    answer = {
        "source": ack.source.hex(),
        "seq": ack.seq,
        "stored": ack.stored,
        "durability": store.database.durability,
    }
    return Response(json.dumps(answer), media_type="application/json")


def _is_small(request: Request, body: bytes) -> bool:
    """Whether the body takes less than a millisecond to decode.

    A compressed body can have 50 times as many bytes, and its first bytes are no batch header.
    """
    if _encoding(request) not in ("", "identity"):
        return False
    return len(body) <= SMALL_BYTES and header_bytes(body) <= SMALL_HEADER_BYTES


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "").lower()


def _check_media_type(request: Request) -> None:
    got = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if got != CONTENT_TYPE:
        raise Problem("unsupported_media_type", f"Batches are sent as {CONTENT_TYPE}.")


def _begin(
    request: Request, principal: Principal, sent: bytes, held: Held
) -> tuple[Batch, Future[Ack]]:
    """Decode a body and queue its batch; the future is done when the batch is on disk."""
    settings: Settings = request.app.state.settings
    store: Store = request.app.state.store
    body = inflate(
        sent,
        _encoding(request),
        held,
        bytes_max=settings.inflated_bytes_max,
        ratio_max=settings.inflate_ratio_max,
    )
    limits = Limits(values_max=settings.batch_values_max, places_max=settings.places_max)
    try:
        batch = decode(body, limits)
    except WireError as error:
        raise Problem(error.reason, str(error)) from error
    if not principal.sees(batch.project):
        raise Problem("forbidden", f"This token allows only project {principal.project!r}.")
    return batch, store.submit(batch, body)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Raise a Problem for what the store refuses."""
    try:
        yield
    except QueueFull as full:
        raise Problem(full.reason, str(full), headers={"Retry-After": "1"}) from full
    except RequestRefused as refused:
        later = {"Retry-After": "30"} if refused.reason == "collector_full" else None
        raise Problem(refused.reason, str(refused), headers=later) from refused
