"""Check a batch, and slice its frames out of the body, before it enters the write queue.

Values that the wire format allows but no column can hold are refused here, in the request's thread,
because the single writer thread limits the ingest rate.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

from trainvitals.wire import Batch, Dropped, Event, Heartbeat, RunEnd, RunStart
from trainvitals.wire.codec import frame_slices
from trainvitals_server.store.types import RequestRefused

STATES = ("finished", "failed", "stopped")
STEP_MAX = 2**53


@dataclass(frozen=True)
class Prepared:
    """A batch with its checksum and the bytes of its frames."""

    batch: Batch
    crc: int
    size: int
    frames: dict[int, tuple[memoryview, memoryview]]
    """Position → (header, values): slices of the body."""


def prepare(batch: Batch, body: bytes) -> Prepared:
    """Return `batch`, decoded from `body`, ready to be written.

    Raises:
        RequestRefused: a number is out of range.
    """
    for record in batch.records:
        _check(record)
    return Prepared(batch, zlib.crc32(body), len(body), frame_slices(body, batch))


def _check(record: object) -> None:
    """Refuse values that the wire format allows but no column can hold."""
    steps: tuple[int, ...] = ()
    times: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    match record:
        case Event(step=step) | Heartbeat(step=step):
            steps, times = (step,), (record.time,)
        case RunEnd():
            steps, times = (record.step,), (record.time,)
            counts = (record.produced, record.dropped, record.last_seq)
            if record.state not in STATES:
                raise _malformed(f"A run ends {', '.join(STATES)}; not {record.state[:40]!r}.")
        case Dropped():
            steps, counts = (record.first_step, record.last_step), (record.records,)
        case RunStart():
            times = (record.started_at,)
            counts = (record.pid, record.total_steps or 0)
        case _:
            return
    if not all(-1 <= step < STEP_MAX for step in steps):
        raise _malformed(f"Steps lie between −1 and 2^53; got {steps}.")
    if not all(math.isfinite(time) for time in times):
        raise _malformed("A record's time is not a finite number.")
    if not all(0 <= count < STEP_MAX for count in counts):
        raise _malformed(f"Counts lie between 0 and 2^53; got {counts}.")


def _malformed(message: str) -> RequestRefused:
    return RequestRefused(message, reason="malformed")
