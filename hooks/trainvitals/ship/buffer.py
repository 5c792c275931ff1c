"""The bounded queue between the training thread and the sender."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from trainvitals.wire import Dropped, Frame, Heartbeat, Record, Stream

RECORD_BYTES = 200
"""Assumed size of a record without its values."""


@dataclass
class _Interval:
    first_step: int
    last_step: int
    records: int = 0


class Losses:
    """Counts dropped records since the last report, by stream and reason. Not thread-safe.

    The training thread counts only queue_full, in a separate `Losses`.
    """

    def __init__(self) -> None:
        self._intervals: dict[tuple[str, str], _Interval] = {}

    def __bool__(self) -> bool:
        return bool(self._intervals)

    def add(self, record: Record, reason: str) -> None:
        """Count a dropped record. Heartbeats do not count; a lost `Dropped` is reported again."""
        match record:
            case Frame():
                first, last = int(record.steps[0]), int(record.steps[-1])
                self._add(str(record.stream), reason, first, last, 1)
            case Dropped():
                first, last = record.first_step, record.last_step
                self._add(record.stream, record.reason, first, last, record.records)
            case Heartbeat():
                pass
            case _:
                step = getattr(record, "step", 0)
                self._add("record", reason, step, step, 1)

    def take(self) -> list[Dropped]:
        """Return the counts as records for the collector, and reset them."""
        intervals, self._intervals = self._intervals, {}
        return [
            Dropped(i.first_step, i.last_step, stream, reason, i.records)
            for (stream, reason), i in intervals.items()
        ]

    def _add(self, stream: str, reason: str, first: int, last: int, records: int) -> None:
        known = self._intervals.setdefault((stream, reason), _Interval(first, last))
        known.first_step = min(known.first_step, first)
        known.last_step = max(known.last_step, last)
        known.records += records


class Buffer:
    """A deque bounded in bytes. `put` only appends: no lock, no I/O.

    A full buffer drops frames of tensors, and at 1.5 times the bound frames of scalars; all other
    records are always accepted. `take_dropped` returns the counts of dropped records.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.produced = 0
        self.dropped = 0
        self._queue: deque[tuple[Record, int]] = deque()
        # Two counters, each written by one thread only: a shared one would need a lock.
        self._put_bytes = 0
        self._taken_bytes = 0
        self._losses = Losses()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, record: Record) -> bool:
        """Append a record, or drop and count it. Return whether it was appended."""
        self.produced += 1
        size = record.values.nbytes + RECORD_BYTES if isinstance(record, Frame) else RECORD_BYTES
        if isinstance(record, Frame):
            bound = self.bytes_max
            if record.stream is Stream.SCALAR:
                bound += self.bytes_max // 2
            if self._put_bytes - self._taken_bytes + size > bound:
                self._leave_out(record)
                return False
        self._put_bytes += size
        self._queue.append((record, size))
        return True

    def take(self) -> Record | None:
        """Remove and return the oldest record; None if there is none."""
        try:
            record, size = self._queue.popleft()
        except IndexError:
            return None
        self._taken_bytes += size
        return record

    def take_dropped(self) -> list[Dropped]:
        """Return the counts since the last call, as records for the collector."""
        return self._losses.take()

    def _leave_out(self, frame: Frame) -> None:
        self.dropped += 1
        self._losses.add(frame, "queue_full")
