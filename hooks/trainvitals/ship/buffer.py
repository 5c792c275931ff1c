"""The bounded queue between the training thread and the sender."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from trainvitals.wire import Dropped, Frame, Record, Stream

RECORD_BYTES = 200
"""What a record without numbers is counted as."""


@dataclass
class Interval:
    """Records left out, of one class for one reason."""

    first_step: int
    last_step: int
    records: int = 0


class Buffer:
    """A deque bounded in bytes. `put` only appends: no lock, no I/O.

    When it is full the tensors' frames are left out first, then the scalars' at 3/2 of the bound;
    starts, layouts and ends are always taken. What was left out is told by `take_dropped`.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.produced = 0
        self.dropped = 0
        self._queue: deque[tuple[Record, int]] = deque()
        # Two counters, each written by one thread only: a shared one would need a lock.
        self._put_bytes = 0
        self._taken_bytes = 0
        self._intervals: dict[tuple[str, str], Interval] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, record: Record) -> bool:
        """Take a record, or leave it out and count it. Returns whether it was taken."""
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
        """Return the oldest record, None when there is none."""
        try:
            record, size = self._queue.popleft()
        except IndexError:
            return None
        self._taken_bytes += size
        return record

    def take_dropped(self) -> list[Dropped]:
        """Return what was left out since the last call, as records for the collector."""
        intervals, self._intervals = self._intervals, {}
        return [
            Dropped(i.first_step, i.last_step, stream, reason, i.records)
            for (stream, reason), i in intervals.items()
        ]

    def _leave_out(self, frame: Frame) -> None:
        self.dropped += 1
        key = (str(frame.stream), "queue_full")
        first, last = int(frame.steps[0]), int(frame.steps[-1])
        known = self._intervals.setdefault(key, Interval(first, last))
        known.last_step = last
        known.records += 1
