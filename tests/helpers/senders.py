"""Training processes that send numbered batches, and what must be stored of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import httpx2
import numpy as np
import sqlalchemy as sa

from helpers import plain_http
from helpers.batches import batch, scalar_frame, scalars, start
from trainvitals.wire import CONTENT_TYPE, Stat, Stream, encode
from trainvitals_server.store import Store
from trainvitals_server.store.chunks import AXIS_GROUP
from trainvitals_server.store.models import Chunk, LogFrame, Source, Track

ROWS = 20
"""Steps of one batch."""


@dataclass
class Sender:
    """One training process: sends its batches in order, again until each is acknowledged."""

    number: int
    acknowledged: list[int] = field(default_factory=list)
    seq: int = 0

    @property
    def run(self) -> str:
        return f"run{self.number}"

    def body(self) -> bytes:
        steps = range(self.seq * ROWS, (self.seq + 1) * ROWS)
        head = [start(), scalars("loss")] if self.seq == 0 else []
        sent = batch(
            *head,
            scalar_frame(steps, [float(step) for step in steps]),
            seq=self.seq,
            run=self.run,
            source=bytes([self.number]) * 16,
        )
        return encode(sent)

    def send_until(
        self, stop: threading.Event, url: str, token: str, *, outages: bool = False
    ) -> None:
        """Send until `stop`, or until the collector is gone.

        With `outages`, repeat the batch while the collector is gone or answers 503.
        """
        headers = {"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {token}"}
        with plain_http.Client(timeout=5) as client:
            while not stop.is_set():
                try:
                    answer = client.post(
                        f"{url}/api/v1/ingest", content=self.body(), headers=headers
                    )
                except httpx2.HTTPError:
                    # Killed: whether it was stored is unknown, so it is sent again.
                    if outages:
                        stop.wait(0.05)
                        continue
                    return
                if outages and answer.status_code == 503:
                    stop.wait(0.05)
                    continue
                assert answer.status_code == 200, answer.text
                assert answer.json()["seq"] == self.seq
                self.acknowledged.append(self.seq)
                self.seq += 1


def verify(store: Store, run: str, acknowledged: int) -> None:
    """Assert that a run has its first `acknowledged` batches, each complete and once.

    The batch that was under way at the end may be there too, completely. A lost batch is an
    AssertionError.
    """
    summary = store.run(run)
    assert summary is not None, f"{run} is lost, with {acknowledged} acknowledged batches"
    found = store.curves(summary.pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=10**9)
    steps, values = found.spans.first, found.spans.newest[:, 0]
    batches = len(steps) // ROWS
    assert batches in (acknowledged, acknowledged + 1), f"{run}: {batches} of {acknowledged}"
    np.testing.assert_array_equal(steps, np.arange(batches * ROWS))
    np.testing.assert_array_equal(values, np.arange(batches * ROWS))
    assert found.spans.count.sum() == batches * ROWS
    assert stored_rows(store, summary.pk) == batches * ROWS, f"{run}: rows are stored twice"


def stored_rows(store: Store, run_pk: int) -> int:
    """Return the number of rows of a run in the log and in sealed segments.

    A curve shows a step that is stored twice once; this number does not.
    """
    tracks = sa.select(Track.pk).join(Source).where(Source.run_pk == run_pk)
    logged = sa.select(sa.func.sum(LogFrame.n)).where(LogFrame.track_pk.in_(tracks))
    sealed = sa.select(sa.func.sum(Chunk.n)).where(
        Chunk.track_pk.in_(tracks), Chunk.tier == 0, Chunk.group == AXIS_GROUP
    )
    with store.database.read() as connection:
        return int(connection.scalar(logged) or 0) + int(connection.scalar(sealed) or 0)
