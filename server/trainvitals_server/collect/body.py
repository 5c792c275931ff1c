"""Read and decompress a request body within limits of size and time."""

from __future__ import annotations

import asyncio
import zlib

from fastapi import Request
from starlette.requests import ClientDisconnect

from trainvitals_server.problems import Problem

ENCODINGS = ("identity", "gzip", "deflate")


async def read_body(request: Request, *, bytes_max: int, deadline_s: float) -> bytes:
    """Return the body as sent.

    The deadline is the one of the whole request, headers included, where the server gives it.

    Raises:
        Problem: too_large as soon as that is known, timeout when it arrives too slowly.
    """
    claimed = request.headers.get("content-length", "")
    if claimed.isdigit() and int(claimed[:20]) > bytes_max:
        raise _too_large(bytes_max)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout_at(_deadline(request, deadline_s)):
            async for part in request.stream():
                size += len(part)
                if size > bytes_max:
                    raise _too_large(bytes_max)
                parts.append(part)
    except TimeoutError as error:
        raise Problem(
            "timeout", f"The request did not arrive within {deadline_s:g} s. Send it again."
        ) from error
    except ClientDisconnect as error:
        raise Problem("timeout", "The connection ended before the body was complete.") from error
    return b"".join(parts)


def inflate(body: bytes, encoding: str, *, bytes_max: int) -> bytes:
    """Return the body as it was before Content-Encoding `encoding`.

    Raises:
        Problem: an unsupported encoding, more bytes than allowed, or malformed data.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ENCODINGS:
        raise Problem(
            "unsupported_media_type",
            f"Content-Encoding may be {', '.join(ENCODINGS)}.",
        )
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # detects gzip or zlib from the header
    try:
        # The output is bounded: a few kilobytes can decompress to gigabytes.
        inflated = inflater.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise Problem("malformed", f"The body is not {encoding}: {error}.") from error
    if len(inflated) > bytes_max:
        raise _too_large(bytes_max)
    if not inflater.eof or inflater.unused_data:
        raise Problem("malformed", f"The {encoding} body is truncated, or data follows its end.")
    return inflated


def _deadline(request: Request, deadline_s: float) -> float:
    """Return the deadline as a time of the event loop."""
    given: float | None = getattr(request.state, "deadline", None)
    return asyncio.get_running_loop().time() + deadline_s if given is None else given


def _too_large(limit: int) -> Problem:
    return Problem(
        "too_large",
        f"The body has more than {limit} bytes. Send smaller batches, or raise the limit on the "
        "collector.",
    )
