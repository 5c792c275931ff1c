"""What the background thread does: gather records into batches, send them in order, else spool.

Comes in: records from the buffer. Goes out: batches to the collector, or to the spool while nobody
takes them; what the spool holds goes first, so the collector gets everything in order.
Start at `Sender.turn`: one look at everything there is to do.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from trainvitals.ship.buffer import Buffer
from trainvitals.ship.http import Acknowledged, Address, Away, Outcome, Refused, Unauthorised, post
from trainvitals.ship.spool import Spool, Spooled, SpoolFull, orphans
from trainvitals.ship.status import ShipStatus
from trainvitals.wire import (
    Batch,
    Frame,
    Heartbeat,
    Layout,
    Record,
    RunEnd,
    RunStart,
    Stream,
    encode,
)

log = logging.getLogger("trainvitals")

BATCH_STEPS: Final = 16
BATCH_BYTES: Final = 2**20
EXCHANGE_S: Final = 10.0
HEARTBEAT_S: Final = 10.0
DELAY_FIRST_S: Final = 0.5
DELAY_MAX_S: Final = 30.0
BREAKER_FAILURES: Final = 5
BREAKER_MAX_S: Final = 60.0
TOKEN_EVERY_S: Final = 60.0


@dataclass(frozen=True)
class Identity:
    """Who sends."""

    run: str
    project: str
    source: bytes
    rank: int


class Sender:
    """Batches out of a buffer, to the collector or to disk. Used by one thread at a time."""

    def __init__(
        self,
        identity: Identity,
        address: Address,
        token: Callable[[], str],
        buffer: Buffer,
        spool_dir: Path,
        spool_bytes_max: int,
        *,
        exchange: Callable[..., Outcome] = post,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = ShipStatus()
        self.disk = threading.Lock()
        """Held while the spool is touched, never during an exchange."""
        self.in_flight: Spooled | None = None
        self._identity = identity
        self._address = address
        self._token = token
        self._buffer = buffer
        self._spool_dir = spool_dir
        self._spool_bytes_max = spool_bytes_max
        self._spool: Spool | None = None
        self._exchange = exchange
        self._clock = clock
        self._seq = 0
        self._step = -1
        self._failures = 0
        self._not_before = 0.0
        self._last_sent = clock()
        self._known: dict[str, Record] = {}
        self._introduce = False
        self._adopted = False
        # Its own generator: the global ones belong to the training.
        self._jitter = random.Random()  # noqa: S311 - spreads retries, nothing secret

    @property
    def is_away(self) -> bool:
        """Whether the collector failed to answer and it is not yet time to ask again."""
        return self._clock() < self._not_before

    def turn(self, *, until: float | None = None) -> None:
        """Send or spool everything that waits; stop sending at `until` (the clock's)."""
        while self._drain_spool(until) and self._may_send(until):
            batch = self._next_batch()
            if batch is None:
                break
            if not self._send(batch, self._identity.source, until):
                self.keep(batch)
        if self.is_away or not self._may_send(until):
            self.keep_all()
        elif until is None and not self._adopted and self.status.batches_sent:
            self._adopted = True
            self._adopt_orphans()
        self._count()

    def keep_all(self) -> None:
        """Put everything that waits in the buffer on disk."""
        while (batch := self._next_batch(heartbeat=False)) is not None:
            self.keep(batch)
        self._count()

    def keep(self, batch: Spooled) -> None:
        """Put a batch on disk; what does not fit there is dropped and counted."""
        with self.disk:
            if self.status.state == "closed":
                return  # a late thread; what it held is on disk already
            try:
                self._own_spool().append(batch.seq, batch.records, batch.payload)
            except (OSError, SpoolFull) as error:
                self.status.dropped += batch.records
                self.status.last_error = str(error)
                # The layouts in it are lost too: without them later frames mean nothing.
                self._introduce = True

    def close(self) -> None:
        """Give the spool back."""
        with self.disk:
            if self._spool is not None:
                self._spool.close()
            self.status.state = "closed"
        self._count()

    def forget(self) -> None:
        """In a forked child: let go of the descriptors."""
        if self._spool is not None:
            self._spool.forget()

    # Batches.

    def _next_batch(self, *, heartbeat: bool = True) -> Spooled | None:
        dropped: list[Record] = list(self._buffer.take_dropped())
        records, size, steps = dropped, 0, 0
        taken = 0
        while steps < BATCH_STEPS and size < BATCH_BYTES:
            record = self._buffer.take()
            if record is None:
                break
            taken += 1
            if isinstance(record, Frame):
                size += record.values.nbytes
                steps += record.stream is Stream.SCALAR
                self._step = int(record.steps[-1])
            elif isinstance(record, RunEnd):
                record = self._completed(record)
            elif isinstance(record, (RunStart, Layout)):
                self._known[record.stream if isinstance(record, Layout) else ""] = record
            records.append(record)
        if self._introduce and records:
            self._introduce = False
            records[:0] = [r for r in self._known.values() if r not in records]
        if not records and heartbeat and self._clock() - self._last_sent > HEARTBEAT_S:
            records.append(Heartbeat(time.time(), max(0, self._step)))
        if not records:
            return None
        who = self._identity
        body = encode(
            Batch(
                who.run, who.project, who.source, self._seq, time.time(), who.rank, tuple(records)
            )
        )
        self._seq += 1
        return Spooled(self._seq - 1, taken, body)

    def _completed(self, end: RunEnd) -> RunEnd:
        return msgspec.structs.replace(
            end,
            produced=self._buffer.produced,
            dropped=self._buffer.dropped + self.status.dropped,
            last_seq=self._seq,
        )

    # Exchanges.

    def _may_send(self, until: float | None) -> bool:
        return not self.is_away and (until is None or self._clock() < until)

    def _send(self, batch: Spooled, source: bytes, until: float | None) -> bool:
        """Offer one batch; return whether it is dealt with: acknowledged, or refused for good."""
        left = EXCHANGE_S if until is None else min(EXCHANGE_S, until - self._clock())
        self.in_flight = batch
        outcome = self._exchange(
            self._address,
            self._token(),
            batch.payload,
            source=source,
            seq=batch.seq,
            deadline_s=max(0.05, left),
        )
        self.in_flight = None
        return self._took(outcome, batch, own=source == self._identity.source)

    def _took(self, outcome: Outcome, batch: Spooled, *, own: bool) -> bool:
        self._last_sent = self._clock()
        match outcome:
            case Acknowledged():
                if self._failures:
                    log.info("The collector answers again; what waited is being sent.")
                self._failures, self._not_before = 0, 0.0
                self.status.state = "sending"
                self.status.batches_sent += 1
                self.status.acknowledged += batch.records if own else 0
                return True
            case Refused(reason=reason):
                log.warning("The collector refuses a batch for good: %s", reason)
                self.status.last_error = reason
                self.status.dropped += batch.records if own else 0
                self._introduce = self._introduce or "layout" in reason
                with self.disk:
                    try:
                        self._own_spool().reject(batch)
                    except OSError as error:
                        self.status.last_error = str(error)
                return True
            case Unauthorised(reason=reason):
                self._wait("unauthorised", reason, TOKEN_EVERY_S)
            case Away(reason=reason, after_s=after_s):
                most = BREAKER_MAX_S if self._failures >= BREAKER_FAILURES else DELAY_MAX_S
                delay = min(most, DELAY_FIRST_S * 2**self._failures)
                self._wait("away", reason, after_s or self._jitter.uniform(0.1, 1) * delay)
        return False

    def _wait(self, state: str, reason: str, delay_s: float) -> None:
        if self.status.state != state:
            hint = (
                "Give it a token with scope ingest in TRAINVITALS_TOKEN_FILE."
                if state == "unauthorised"
                else "They are sent when it answers, by this run or the next one here."
            )
            log.warning(
                "The collector at %s:%d does not take batches (%s). The training goes on; batches "
                "wait in %s. %s",
                self._address.host,
                self._address.port,
                reason,
                self._spool_dir,
                hint,
            )
        self.status.state = state
        self.status.last_error = reason
        self._failures = min(self._failures + 1, 20)
        self._not_before = self._clock() + delay_s

    # The disk.

    def _drain_spool(self, until: float | None) -> bool:
        """Send what lies on disk, oldest first; return whether nothing is left there."""
        return self._spool is None or self._send_spooled(self._spool, self._identity.source, until)

    def _send_spooled(self, spool: Spool, source: bytes, until: float | None) -> bool:
        while True:
            with self.disk:
                batch = spool.first()
            if batch is None:
                return True
            if not self._may_send(until) or not self._send(batch, source, until):
                return False
            with self.disk:
                spool.done()

    def _adopt_orphans(self) -> None:
        for spool in orphans(self._spool_dir, self._spool_bytes_max):
            try:
                source = bytes.fromhex(spool.folder.name)
            except ValueError:
                continue  # no folder of ours
            log.info("Sending what an earlier process left in %s.", spool.folder)
            sent = self._send_spooled(spool, source, None)
            spool.close()
            if not sent:
                self._adopted = False
                return

    def _own_spool(self) -> Spool:
        if self._spool is None:
            folder = self._spool_dir / self._identity.source.hex()
            self._spool = Spool(folder, self._spool_bytes_max)
        return self._spool

    def _count(self) -> None:
        status = self.status
        status.produced = self._buffer.produced
        settled = status.acknowledged + status.dropped + self._buffer.dropped
        status.waiting = status.produced - settled
