"""Pack records from the buffer into encoded batches, each storable and of bounded size.

Comes in: records from `Buffer`. Goes out: `Spooled` batches with consecutive numbers.
Promise:  a record that cannot be encoded is dropped and counted; no record causes an exception.
Start at `Packer.next`. Not thread-safe; the caller holds the lock.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec

from trainvitals.ship.buffer import RECORD_BYTES, Buffer, Losses
from trainvitals.ship.segments import Spooled
from trainvitals.ship.thinning import Thinning
from trainvitals.wire import (
    Batch,
    Dropped,
    Frame,
    Heartbeat,
    Layout,
    Record,
    RunEnd,
    RunStart,
    Stream,
    encode,
)
from trainvitals.wire.sanitise import STEP_MAX, sanitised

log = logging.getLogger("trainvitals")

BATCH_STEPS: Final = 16
BATCH_BYTES: Final = 2**20
"""Maximum size of a batch with more than one record."""
BATCH_RECORDS: Final = 4000
BATCH_VALUES: Final = 50_000
"""Maximum number of values in a batch with more than one record: the default of collectors."""
_Key = tuple[Stream, int]


@dataclass(frozen=True)
class Identity:
    """The sender of batches."""

    run: str
    project: str
    source: bytes
    rank: int


class Packer:
    """Makes batches. `dropped` is the number of records that it dropped."""

    def __init__(self, identity: Identity, buffer: Buffer) -> None:
        self.identity = identity
        self.losses = Losses()
        self.dropped = 0
        self._buffer = buffer
        self._seq = 0
        self.step = -1
        """The step of the last frame."""
        self._start: RunStart | None = None
        self._layouts: dict[str, Layout] = {}
        self._rejected: set[_Key] = set()
        self._introduce = False
        self._next: deque[tuple[Record, int]] = deque()
        """Records and their sizes that did not fit into the last batch; packed first."""
        self._introduced: set[int] = set()
        self._thinning = Thinning()

    @property
    def layouts(self) -> list[Layout]:
        """The newest layout of each stream, without rejected ones."""
        known = self._layouts.values()
        return [layout for layout in known if (layout.stream, layout.version) not in self._rejected]

    def next(self, *, quiet: bool = True, used: float = 0.0) -> Spooled | None:
        """Return the next batch; None if there are no records.

        Unless `quiet`, losses are reported also if there is no other record. `used` is the share
        of the spool that is used, from 0: the fuller it is, the more frames are dropped.
        """
        if self._introduce and self.waits():
            self._introduce = False
            again: list[Record] = [*([self._start] if self._start else []), *self.layouts]
            self._introduced.update(map(id, again))
            self._next.extendleft((record, _bytes_of(record)) for record in reversed(again))
        records: list[Record] = []
        size = steps = counted = values = 0
        while steps < BATCH_STEPS and len(records) < BATCH_RECORDS:
            taken = self._take(used)
            if taken is None:
                break
            record, record_bytes = taken
            record_values = record.values.size if isinstance(record, Frame) else 0
            too_large = size + record_bytes > BATCH_BYTES or values + record_values > BATCH_VALUES
            if records and too_large:
                self._next.appendleft(taken)
                break
            again_sent = id(record) in self._introduced
            self._introduced.discard(id(record))
            counted += not again_sent
            size += record_bytes
            values += record_values
            steps += isinstance(record, Frame) and record.stream is Stream.SCALAR
            records.append(record)
        if records or not quiet:
            records[:0] = [*self._buffer.take_dropped(), *self.losses.take()]
        return self._batch(records, counted) if records else None

    def heartbeat(self) -> Spooled | None:
        """Return a batch that shows that the process is running."""
        return self._batch([Heartbeat(time.time(), max(0, self.step))], 0)

    def introduce(self) -> None:
        """Repeat start and layouts before the next record: the batch with them may be lost."""
        self._introduce = True

    def rejected(self, record: Record) -> None:
        """Drop a record that the collector rejected; for a layout, also its frames."""
        if isinstance(record, Layout):
            self._rejected.add((record.stream, record.version))
        elif isinstance(record, RunStart):
            self._start = None

    def leave_out(self, records: Sequence[Record], reason: str, counted: int) -> None:
        """Count lost records, `counted` of them from the buffer."""
        self.dropped += counted
        # Repeated starts and layouts are at the front and are not losses: they were counted the
        # first time, and will be repeated once more.
        again = sum(map(is_counted, records)) - counted
        for record in records:
            if again > 0 and isinstance(record, (RunStart, Layout)):
                again -= 1
            else:
                self.losses.add(record, reason)

    def waits(self) -> bool:
        """Whether there is a record to pack."""
        return bool(self._next) or len(self._buffer) > 0

    def _take(self, used: float) -> tuple[Record, int] | None:
        """Return the next storable record and its size in bytes."""
        if self._next:
            return self._next.popleft()
        while (record := self._buffer.take()) is not None:
            try:
                if isinstance(record, RunEnd):
                    record = self._completed(record)
                record = sanitised(record)
                self._note(record)
                reason = self._refusal(record, used) if isinstance(record, Frame) else ""
                if not reason:
                    return record, _bytes_of(record)
            except Exception:
                log.exception("A record cannot be encoded and is dropped.")
                reason = "rejected"
            self.leave_out([record], reason, 1)
        return None

    def _note(self, record: Record) -> None:
        if isinstance(record, Frame):
            self.step = int(record.steps[-1])
        elif isinstance(record, RunStart):
            self._start = record
        elif isinstance(record, Layout):
            self._layouts[record.stream] = record

    def _refusal(self, frame: Frame, used: float) -> str:
        """Return why a frame is dropped; "" if it is packed."""
        if not self._fits(frame):
            return "rejected"
        return "" if self._thinning.keeps(frame, used) else "spool_full"

    def _fits(self, frame: Frame) -> bool:
        """Whether a frame passes the checks of the collector that are possible here."""
        steps, times = frame.steps.tolist(), frame.times.tolist()
        return (
            (frame.stream, frame.layout) not in self._rejected
            and frame.values.ndim == 3
            and 0 < len(steps) == len(times) == len(frame.values)
            and steps[0] >= 0
            and steps[-1] < STEP_MAX
            and all(a < b for a, b in pairwise(steps))
            and all(map(math.isfinite, times))
        )

    def _completed(self, end: RunEnd) -> RunEnd:
        return msgspec.structs.replace(
            end,
            produced=self._buffer.produced,
            dropped=self._buffer.dropped + self.dropped,
            last_seq=self._seq,
        )

    def _batch(self, records: list[Record], counted: int) -> Spooled | None:
        who = self.identity

        def body_of(these: list[Record], counted: int = 0) -> bytes:
            now, seq = time.time(), self._seq
            return encode(
                Batch(who.run, who.project, who.source, seq, now, who.rank, tuple(these), counted)
            )

        try:
            body = body_of(records, counted)
        except Exception:
            log.exception("A batch cannot be encoded; only its encodable records are sent.")
            good = [record for record in records if _succeeds(body_of, record)]
            bad = [record for record in records if record not in good]
            self.leave_out(bad, "rejected", min(counted, len(bad)))
            counted -= min(counted, len(bad))
            if not good:
                return None
            body = body_of(good, counted)
        self._seq += 1
        return Spooled(self._seq - 1, counted, body)


def is_counted(record: Record) -> bool:
    """Whether a record came from the buffer, not from delivery."""
    return not isinstance(record, (Dropped, Heartbeat))


def _succeeds(body_of: Callable[[list[Record]], bytes], record: Record) -> bool:
    try:
        body_of([record])
    except Exception:  # noqa: BLE001 - the caller has logged the exception
        return False
    return True


def _bytes_of(record: Record) -> int:
    if isinstance(record, Frame):
        return record.values.nbytes + RECORD_BYTES
    return len(msgspec.msgpack.encode(record)) + RECORD_BYTES
