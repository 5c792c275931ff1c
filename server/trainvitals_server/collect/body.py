"""Read and decompress a request body within limits of size and time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import zlib
from collections.abc import Iterator

from fastapi import Request
from starlette.requests import ClientDisconnect

from trainvitals_server.problems import Problem

ENCODINGS = ("identity", "gzip", "deflate")
RATIO_FROM_BYTES = 65536
"""Bodies up to this size after decompression may have any ratio."""


class ByteBudget:
    """The bytes of all bodies that are being received or decoded. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    @contextlib.contextmanager
    def hold(self) -> Iterator[Held]:
        """Yield a holder of bytes; they are released when the block ends."""
        held = Held(self)
        try:
            yield held
        finally:
            self.change(-held.bytes)

    def change(self, size: int) -> None:
        """Take `size` bytes, or release them when it is negative.

        Raises:
            Problem: queue_full when all requests together would hold more than the limit.
        """
        with self._lock:
            if size > 0 and self._held and self._held + size > self._limit:
                raise Problem(
                    "queue_full",
                    f"Other requests hold {self._held} bytes; the limit is {self._limit}. Send it "
                    "again in a second.",
                    headers={"Retry-After": "1"},
                )
            self._held += size


class Held:
    """The bytes of one request."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.bytes = 0

    def add(self, size: int) -> None:
        """Take `size` bytes more, or raise as `ByteBudget.change`."""
        self._budget.change(size)
        self.bytes += size


async def read_body(request: Request, held: Held, *, bytes_max: int, deadline_s: float) -> bytes:
    """Return the body as sent; its bytes are added to `held`.

    The deadline is the one of the whole request, headers included, where the server gives it.

    Raises:
        Problem: too_large as soon as that is known, timeout when it arrives too slowly, queue_full
            when all requests together hold too many bytes.
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
                held.add(len(part))
                parts.append(part)
    except TimeoutError as error:
        raise Problem(
            "timeout", f"The request did not arrive within {deadline_s:g} s. Send it again."
        ) from error
    except ClientDisconnect as error:
        raise Problem("timeout", "The connection ended before the body was complete.") from error
    return b"".join(parts)


def inflate(body: bytes, encoding: str, held: Held, *, bytes_max: int, ratio_max: int) -> bytes:
    """Return the body as it was before Content-Encoding `encoding`.

    It has at most `bytes_max` bytes, and at most `ratio_max` for each byte of `body` when it is
    larger than RATIO_FROM_BYTES. Its bytes are added to `held` before they are allocated.

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
    bytes_max = min(bytes_max, max(RATIO_FROM_BYTES, ratio_max * len(body)))
    held.add(bytes_max)
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
        f"The body has more than {limit} bytes, as sent or after decompression. Send "
        "smaller batches, or raise the limit on the collector.",
    )
