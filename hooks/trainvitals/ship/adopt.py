"""Deliver the batches that ended processes left in the spool folder.

Comes in: the folders of other sources. Goes out: their batches, in order.
Promise:  a separate thread, with deadlines and a back-off for each folder, so that no folder
          delays the live run or another folder. A folder is delivered only to the collector in
          its `owner.json`.
Start at `Adoption.turn`, which tries every folder once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainvitals.ship.backoff import Backoff
from trainvitals.ship.http import Acknowledged, Address, Link, Outcome, Rejected
from trainvitals.ship.split import halves
from trainvitals.ship.spool import Spool, folders

log = logging.getLogger("trainvitals")

EXCHANGE_S = 10.0
LOOK_S_MAX = 60.0


@dataclass
class Tally:
    """What was delivered so far."""

    batches: int = 0
    records: int = 0
    """Records that came from the training process."""
    rejected: int = 0
    """Records in batches that the collector rejected permanently."""
    running: int = 0
    """Folders in the last turn whose process is running."""
    failed: int = 0
    """Folders in the last turn that cannot be opened or read; the log has the reasons."""
    reason: str = ""
    """Why the collector did not accept the last batch; "" when it did."""


class Adoption:
    """Sends the spools of ended processes until this collector has all of its batches."""

    def __init__(
        self,
        address: Address,
        token: Callable[[], str],
        spool_dir: Path,
        bytes_max: int,
        *,
        exchange: Callable[..., Outcome] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stop = threading.Event()
        self.tally = Tally()
        self._address = address
        self._token = token
        self._spool_dir = spool_dir
        self._bytes_max = bytes_max
        self._link = Link()
        self._exchange = exchange or self._link.post
        self._clock = clock
        self._backoffs: dict[Path, Backoff] = {}
        self._open: Spool | None = None

    def run(self) -> None:
        """Try the folders repeatedly, until none is left."""
        pause_s: float | None = 0.0
        while pause_s is not None and not self.stop.wait(min(pause_s, LOOK_S_MAX)):
            pause_s = self.turn()

    def turn(self) -> float | None:
        """Try every folder once; return the seconds until the next retry, None if there is none."""
        due: list[float] = []
        self.tally.running = self.tally.failed = 0
        for folder in folders(self._spool_dir):
            backoff = self._backoffs.setdefault(folder, Backoff(self._clock))
            try:
                if not backoff.waits and not self.stop.is_set():
                    self._adopt(folder, backoff)
            except BlockingIOError:
                self.tally.running += 1
                continue  # its owner is still running
            except Exception as error:  # noqa: BLE001 - a broken folder must not delay others
                self.tally.failed += 1
                log.warning("The batches in %s cannot be sent: %s", folder, error)
                continue
            if backoff.waits:
                due.append(backoff.not_before - self._clock())
        self._link.close()
        return max(0.1, min(due)) if due else None

    def forget(self) -> None:
        """Close the descriptors in a forked child."""
        self.stop.set()
        self._link.close()
        if self._open is not None:
            self._open.forget()

    def _adopt(self, folder: Path, backoff: Backoff) -> None:
        self._open = spool = Spool.adopt(folder, self._bytes_max)
        try:
            if spool.first() is None:
                return
            if spool.owner is None or spool.owner.url != self._address.url:
                of = spool.owner.url if spool.owner else "an unknown collector"
                log.info("The batches in %s are for %s and are kept.", folder, of)
                return
            log.info("Sending the batches that an earlier process left in %s.", folder)
            while spool.first() is not None and not self.stop.is_set() and not backoff.waits:
                self._send_first(spool, backoff)
        finally:
            self._open = None
            spool.close()

    def _send_first(self, spool: Spool, backoff: Backoff) -> None:
        batch = spool.first()
        if batch is None:
            return
        outcome = self._exchange(
            self._address,
            self._token(),
            batch.payload,
            source=bytes.fromhex(spool.folder.name),
            seq=batch.seq,
            deadline_s=EXCHANGE_S,
            probes=backoff.is_open,
        )
        match outcome:
            case Acknowledged():
                backoff.succeeded()
                self.tally.batches += 1
                self.tally.records += batch.records
                self.tally.reason = ""
                spool.done()
            case Rejected(reason=reason):
                backoff.succeeded()
                parts = halves(batch) if outcome.divisible else []
                if parts:
                    spool.replace(parts)
                    return
                log.warning("The collector rejects a batch of %s: %s", spool.folder.name, reason)
                self.tally.rejected += batch.records
                spool.reject(batch)
                spool.done()
            case _:
                self.tally.reason = outcome.reason
                backoff.failed(outcome)
