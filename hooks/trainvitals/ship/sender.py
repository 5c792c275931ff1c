"""Deliver one run: batches to the collector in order, to disk while it does not accept them.

Comes in: records from the buffer. Goes out: batches over HTTP. A batch that is not acknowledged
after `BUSY_S` is written to the spool, also during its exchange.
Promise:  one lock guards the packer, the batches in memory and the spool; it is never held during
          an exchange. Lost records are counted and reported to the collector.
Two threads use it: `gather` packs records into batches, `exchange_one` sends them. The batches in
the spool are sent before those in memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from trainvitals.ship.backoff import Backoff
from trainvitals.ship.buffer import Buffer
from trainvitals.ship.http import Acknowledged, Address, Away, Link, Outcome, Rejected, Unauthorised
from trainvitals.ship.packer import Identity, Packer, is_counted
from trainvitals.ship.segments import Spooled
from trainvitals.ship.split import halves, records_of, with_layouts
from trainvitals.ship.spool import Owner, Spool, SpoolFull
from trainvitals.ship.status import ShipStatus
from trainvitals.wire import Dropped

log = logging.getLogger("trainvitals")

EXCHANGE_S: Final = 10.0
HEARTBEAT_S: Final = 10.0
BUSY_S: Final = 0.1
"""Time after which a batch in an unfinished exchange is also written to disk."""
LOOK_S: Final = 0.5


class Sender:
    """Moves batches from a buffer to the collector or to disk."""

    def __init__(
        self,
        identity: Identity,
        address: Address,
        token: Callable[[], str],
        buffer: Buffer,
        spool_dir: Path,
        spool_bytes_max: int,
        *,
        exchange: Callable[..., Outcome] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = ShipStatus()
        self.acknowledged = threading.Event()
        """Set when the collector has acknowledged the first batch."""
        self._identity = identity
        self._address = address
        self._token = token
        self._buffer = buffer
        self._packer = Packer(identity, buffer)
        self._spool_dir = spool_dir
        self._spool_bytes_max = spool_bytes_max
        self._spool: Spool | None = None
        self._hot: list[Spooled] = []
        """The batches in memory: one batch, or its parts."""
        self._link = Link()
        self._exchange = exchange or self._link.post
        self._clock = clock
        self._backoff = Backoff(clock)
        self._changed = threading.Condition()
        self._closed = False
        self._until: float | None = None
        self._last_sent = clock()
        self._layouts_for = -1
        """seq of the last batch to which the layouts were added; only once per batch."""
        self._reports_wait = False
        """Whether loss reports are sent only with other records, because one was rejected."""

    @property
    def closed(self) -> bool:
        """Whether nothing more is sent."""
        return self._closed

    # The gathering thread.

    def gather(self) -> None:
        """Pack all records of the buffer into batches, for the collector or the disk."""
        with self._changed:
            while not self._closed:
                self._changed.wait_for(self._free, BUSY_S)
                if self._closed:
                    break
                if self._hot or self._backoff.waits or self._head() is not None:
                    self._all_to_disk()
                    break
                batch = self._packer.next(quiet=self._reports_wait)
                if batch is None and self._clock() - self._last_sent > HEARTBEAT_S:
                    self._last_sent = self._clock()
                    batch = self._packer.heartbeat()
                if batch is None:
                    break
                self._hot.append(batch)
                self._changed.notify_all()
            self._count()

    def close(self, deadline_s: float) -> None:
        """Send pending batches until the deadline, in seconds; keep the others on disk.

        If a blocked disk operation holds the lock in another thread, the records in memory are
        dropped at the deadline.
        """
        self._until = until = self._clock() + 0.8 * deadline_s
        if not self._changed.acquire(timeout=deadline_s):
            log.warning(
                "The spool in %s does not respond; the records in memory are lost.",
                self._spool_dir,
            )
            self._closed = True
            return
        try:
            self._changed.notify_all()
            while True:
                self.gather()
                if self._settled() or self._backoff.waits or self._clock() >= until:
                    break
                self._changed.wait(min(BUSY_S, max(0.0, until - self._clock())))
            self._all_to_disk()
            for batch in self._hot:
                self._lose(batch, "no_disk")
            self._hot.clear()
            while (late := self._packer.next()) is not None:
                self._lose(late, "no_disk")
            self._count()
        finally:
            self._closed = True
            self.status.state = "closed"
            if self._spool is not None:
                self._spool.close()
            self._changed.notify_all()
            self._changed.release()

    def forget(self) -> None:
        """Close the descriptors in a forked child, without a lock."""
        self._closed = True
        self._link.close()
        if self._spool is not None:
            self._spool.forget()

    def failed(self) -> None:
        """Count an unexpected exception."""
        self.status.errors += 1

    def _free(self) -> bool:
        return self._closed or not self._hot or self._backoff.waits

    def _settled(self) -> bool:
        return not self._hot and not self._packer.waits() and self._head() is None

    # The exchanging thread.

    def exchange_one(self) -> None:
        """Send the oldest batch to the collector, or wait a moment if there is none."""
        with self._changed:
            batch = None if self._closed else self._head() or next(iter(self._hot), None)
            if batch is None or not self._may_send():
                if not self._closed:
                    self._changed.wait(self._pause_s())
                return
            left = EXCHANGE_S if self._until is None else self._until - self._clock()
            probes = self._backoff.is_open
        outcome = self._exchange(
            self._address,
            self._token(),
            batch.payload,
            source=self._identity.source,
            seq=batch.seq,
            deadline_s=max(0.05, min(EXCHANGE_S, left)),
            probes=probes,
        )
        with self._changed:
            if not self._closed:  # otherwise the batch is on disk; it is sent again, counted once
                self._last_sent = self._clock()
                self._took(outcome, batch)
                self._count()
            self._changed.notify_all()

    def disconnect(self) -> None:
        """Close the connection to the collector, after the last exchange."""
        self._link.close()

    def _may_send(self) -> bool:
        return not self._backoff.waits and (self._until is None or self._clock() < self._until)

    def _pause_s(self) -> float:
        left = self._backoff.not_before - self._clock()
        return min(left, LOOK_S) if left > 0 else LOOK_S

    def _took(self, outcome: Outcome, batch: Spooled) -> None:
        match outcome:
            case Acknowledged():
                if self._backoff.failures:
                    log.info("The collector responds again; pending batches are sent.")
                self._backoff.succeeded()
                self._reports_wait = False
                self.status.state = "sending"

                self.status.acknowledged += batch.records
                self._replace(batch, [])
                self.acknowledged.set()
            case Rejected():
                self._rejected(outcome, batch)
            case Unauthorised(reason=reason):
                self._wait("unauthorised", reason, outcome)
            case Away(reason=reason):
                self._wait("away", reason, outcome)

    def _rejected(self, outcome: Rejected, batch: Spooled) -> None:
        """Divide a rejected batch; drop a record that cannot be divided."""
        self._backoff.succeeded()
        if outcome.code == "unknown_layout" and self._layouts_for != batch.seq:
            self._layouts_for = batch.seq
            whole = with_layouts(batch, self._packer.layouts)
            if whole is not None:
                self._replace(batch, [whole])
                return
        parts = halves(batch) if outcome.divisible else []
        if parts:
            self._replace(batch, parts)
            return
        level = logging.DEBUG if self.status.last_error == outcome.reason else logging.WARNING
        log.log(level, "The collector rejects a record; it is dropped: %s", outcome.reason)
        self.status.last_error = outcome.reason
        if outcome.divisible:
            for record in records_of(batch):
                self._packer.rejected(record)
        else:
            self._packer.introduce()  # later frames may need its layouts
        lost = records_of(batch)
        only_reports = not batch.records and not any(map(is_counted, lost))
        if outcome.divisible and only_reports:
            lost = []  # a loss report that is rejected alone would be rejected again
        self._reports_wait = only_reports
        self._packer.leave_out(lost, "rejected", batch.records)
        self._replace(batch, [])
        if only_reports:
            return
        try:
            self._own_spool().reject(batch)
        except OSError as error:
            self.status.last_error = str(error)

    def _replace(self, batch: Spooled, parts: list[Spooled]) -> None:
        """Replace the batch that was sent by `parts`, in memory or on disk."""
        if self._hot and self._hot[0] is batch:
            self._hot[:1] = parts
        elif (first := self._head()) is not None and first.seq == batch.seq and self._spool:
            if parts:
                self._spool.replace(parts)
            else:
                self._spool.done()

    def _wait(self, state: str, reason: str, outcome: Away | Unauthorised) -> None:
        if self.status.state != state:
            hint = (
                "Set TRAINVITALS_TOKEN_FILE to a file with a token of scope ingest."
                if state == "unauthorised"
                else "This run, or the next one on this machine, sends them later."
            )
            log.warning(
                "The collector at %s does not accept batches (%s). The training goes on; batches "
                "are kept in %s. %s",
                self._address.url,
                reason,
                self._spool_dir,
                hint,
            )
        self.status.state = state
        self.status.last_error = reason
        self._backoff.failed(outcome)
        self._hot_to_disk()

    # The disk; the caller holds the lock.

    def _head(self) -> Spooled | None:
        """Return the oldest batch on disk."""
        if self._spool is None:
            return None
        first = self._spool.first()
        if self._spool.lost:
            lost, self._spool.lost = self._spool.lost, 0
            step = max(0, self._packer.step)
            self._packer.leave_out([Dropped(0, step, "record", "spool_lost", lost)], "", lost)
            self._packer.introduce()
        return first

    def _all_to_disk(self) -> None:
        """Write all pending batches to disk; after a write error they stay in memory."""
        state = self._hot_to_disk()
        if state == "broken":
            return
        while (batch := self._packer.next(used=self._used())) is not None:
            try:
                if state == "full":
                    raise SpoolFull("the spool is full")
                self._own_spool().append(batch)
            except SpoolFull as error:
                self.status.last_error = str(error)
                self._lose(batch, "spool_full")
                self._packer.introduce()  # later frames may need its layouts
            except OSError as error:
                self.status.last_error = str(error)
                self._hot.append(batch)
                return

    def _hot_to_disk(self) -> str:
        """Write the batches in memory to disk; return kept, full, or broken (write error)."""
        while self._hot:
            try:
                self._own_spool().append(self._hot[0])
            except (OSError, SpoolFull) as error:
                self.status.last_error = str(error)
                return "full" if isinstance(error, SpoolFull) else "broken"
            self._hot.pop(0)
        return "kept"

    def _used(self) -> float:
        return self._spool.used() if self._spool is not None else 0.0

    def _own_spool(self) -> Spool:
        if self._spool is None:
            who = self._identity
            owner = Owner(self._address.url, who.run, who.project)
            self._spool = Spool.create(self._spool_dir, who.source, self._spool_bytes_max, owner)
        return self._spool

    def _lose(self, batch: Spooled, reason: str) -> None:
        self._packer.leave_out(records_of(batch), reason, batch.records)

    def _count(self) -> None:
        status = self.status
        status.produced = self._buffer.produced
        status.dropped = self._packer.dropped
        settled = status.acknowledged + status.dropped + self._buffer.dropped
        status.waiting = status.produced - settled
