"""The interface of delivery for the training: `put`, which appends, and `close`.

Three daemon threads: one packs records into batches, one sends batches to the collector, and one
delivers the batches of earlier processes on disk, after the first acknowledgement.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from trainvitals.ship.adopt import Adoption
from trainvitals.ship.buffer import Buffer
from trainvitals.ship.http import parse_url
from trainvitals.ship.packer import Identity
from trainvitals.ship.sender import Sender
from trainvitals.ship.status import ShipStatus
from trainvitals.wire import Record
from trainvitals.wire.sanitise import name

log = logging.getLogger("trainvitals")

QUEUE_BYTES_MAX: Final = 16 * 2**20
SPOOL_BYTES_MAX: Final = 256 * 2**20
INTERVAL_S: Final = 0.5
ERROR_PAUSE_S_MAX: Final = 60.0


class Shipper:
    """Sends one process's records in background threads.

    The constructor raises ValueError for an invalid URL. Other methods do not raise, and only
    `close` waits, up to its deadline.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str | Callable[[], str],
        run: str,
        project: str,
        spool_dir: Path,
        rank: int = 0,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        **seams: Any,
    ) -> None:
        address = parse_url(url)
        read_token = (lambda: token) if isinstance(token, str) else token
        self.source = secrets.token_bytes(16)
        self._buffer = Buffer(queue_bytes_max)
        self._sender = Sender(
            Identity(name(run), name(project), self.source, rank),
            address,
            read_token,
            self._buffer,
            spool_dir,
            spool_bytes_max,
            **seams,
        )
        self._adoption = Adoption(address, read_token, spool_dir, spool_bytes_max, **seams)
        self._closed = False
        self._wake = threading.Event()
        self._cpu_s: dict[str, float] = {}
        for part, turn in (
            ("gather", self._gather),
            ("exchange", self._sender.exchange_one),
            ("adopt", self._adopt),
        ):
            self._cpu_s[part] = 0.0
            thread_name = f"trainvitals-{part}"
            threading.Thread(
                target=self._run, args=(part, turn), name=thread_name, daemon=True
            ).start()

    @property
    def status(self) -> ShipStatus:
        """The state and the counts of delivery."""
        return self._sender.status

    @property
    def cpu_s(self) -> float:
        """CPU time of the threads, in seconds."""
        return sum(self._cpu_s.values())

    def put(self, record: Record) -> None:
        """Append a record to the buffer; called in the training thread."""
        if not self._closed:
            self._buffer.put(record)

    def close(self, deadline_s: float = 2.0) -> None:
        """Send pending records until the deadline; spool the others. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._adoption.stop.set()
        try:
            self._sender.close(deadline_s)
        except Exception:
            self._sender.failed()
            log.exception("Closing delivery failed; the training is not affected.")
        self._wake.set()

    def forget(self) -> None:
        """Switch off in a forked child, and close the descriptors."""
        self._closed = True
        self._sender.forget()
        self._adoption.forget()

    def _gather(self) -> None:
        self._wake.wait(INTERVAL_S)
        self._sender.gather()

    def _adopt(self) -> None:
        if self._sender.acknowledged.wait(INTERVAL_S):
            self._adoption.run()
            self._adoption.stop.set()

    def _run(self, part: str, turn: Callable[[], None]) -> None:
        """Call `turn` until delivery ends; log an exception in it and call it again."""
        failures = 0
        while not self._sender.closed and not (part == "adopt" and self._adoption.stop.is_set()):
            started = time.thread_time()
            try:
                turn()
                failures = 0
            except Exception:
                failures += 1
                self._sender.failed()
                pause_s = min(ERROR_PAUSE_S_MAX, INTERVAL_S * 2 ** min(failures, 10))
                log.exception("Delivery failed; the next attempt is in %.0f s.", pause_s)
                self._wake.wait(pause_s)
            self._cpu_s[part] += time.thread_time() - started
        if part == "exchange":
            self._sender.disconnect()
