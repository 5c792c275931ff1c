"""Send the batches of a file to a collector, in order, until each is acknowledged.

Comes in: a source of pages, a target, an address. Goes out: what was stored.
Promise:  an import that was interrupted continues with the same command; nothing is stored twice.
Start at `deliver`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from trainvitals.imports.batches import Summary, Target, batches
from trainvitals.imports.pages import Page
from trainvitals.ship.http import Acknowledged, Address, Away, Link, Outcome, Rejected
from trainvitals.wire import Batch, Frame, encode

_DEADLINE_S: Final = 60.0
_PAUSE_S: Final = 0.5
_STARTS_MAX: Final = 1000


class NotDelivered(Exception):  # noqa: N818 - a state of the delivery
    """The collector did not accept all batches; `rows` were stored before."""

    def __init__(self, message: str, rows: int, *, refused: bool) -> None:
        super().__init__(message)
        self.rows = rows
        self.refused = refused
        """Whether the collector refused the batch; False: it did not answer."""


def deliver(
    pages: Callable[[], Iterable[Page]],
    target: Target,
    found: Summary,
    address: Address,
    token: str,
    *,
    wait_s: float,
) -> int:
    """Send all batches; return their number.

    A batch is repeated for `wait_s` seconds while the collector does not answer. A file whose run
    was deleted begins a new run.

    Raises:
        NotDelivered: the collector refused a batch, or did not answer in time.
    """
    start = 0
    with Link() as link:

        def sent(batch: Batch) -> Outcome:
            body = encode(batch)
            deadline = time.monotonic() + wait_s
            while True:
                outcome = link.post(
                    address,
                    token,
                    body,
                    source=batch.source,
                    seq=batch.seq,
                    deadline_s=_DEADLINE_S,
                )
                pause_s = (outcome.after_s or _PAUSE_S) if isinstance(outcome, Away) else None
                if pause_s is None or time.monotonic() + pause_s > deadline:
                    return outcome
                time.sleep(pause_s)

        def first() -> Iterator[Batch]:
            """Yield the batches; a first one that belongs to a deleted run is made anew."""
            return iter(batches(pages(), target, found, start))

        done = rows = 0
        left = first()
        while (batch := next(left, None)) is not None:
            outcome = sent(batch)
            if isinstance(outcome, Acknowledged):
                done += 1
                rows += sum(r.values.size for r in batch.records if isinstance(r, Frame))
                continue
            deleted = isinstance(outcome, Rejected) and outcome.code == "run_deleted"
            if deleted and batch.seq == 0 and start < _STARTS_MAX:
                start += 1
                left = first()
                continue
            raise NotDelivered(outcome.reason, rows, refused=not isinstance(outcome, Away))
        return done
