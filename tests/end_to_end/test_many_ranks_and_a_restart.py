"""R18: many ranks of one run send over HTTP, the collector is killed, and all is stored after.

Each rank is a `Shipper` with its own threads, spool and retries, as in a training process.
"""

import threading
import time

import numpy as np
import pytest

from helpers.ports import free_port
from helpers.senders import stored_rows
from helpers.serving import serving
from trainvitals.ship import Shipper
from trainvitals.wire import Frame, Layout, Place, RunEnd, RunStart, Stat, Stream
from trainvitals_server.store import Store

PROMISED_S = 60.0
BEFORE_S, AWAY_S, AFTER_S = 6.0, 6.0, 6.0
STEP_S = 0.1


class Rank:
    """A training process: one step after the other, until it is told to end."""

    def __init__(self, number, url, token_file, folder):
        self.steps = 0
        self.shipper = Shipper(
            url=url,
            token=lambda: token_file.read_text().strip(),
            run="many",
            project="p",
            spool_dir=folder / str(number),
            rank=number,
        )
        self.shipper.put(RunStart(started_at=time.time(), host=f"host{number}"))
        places = tuple(Place(f"{i}.weight") for i in range(50))
        self.shipper.put(Layout(Stream.WEIGHT, 0, (Stat.RMS,), places))
        self._ended = threading.Event()
        self._values = np.full((1, 50, 1), number, np.float32)
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def _train(self):
        while not self._ended.wait(STEP_S):
            step = np.array([self.steps])
            self.shipper.put(Frame(Stream.WEIGHT, 0, step, np.array([time.time()]), self._values))
            self.steps += 1

    def end(self):
        self._ended.set()
        self._thread.join()
        self.shipper.put(RunEnd(time.time(), self.steps - 1, "finished"))

    @property
    def waits(self):
        return self.shipper.status.produced == 0 or self.shipper.status.waiting > 0

    @property
    def waited(self):
        """Whether the outage was noticed."""
        return self.shipper.status.state == "away"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [32, 128])
def test_all_are_acknowledged_within_a_minute_of_the_return(tmp_path, count):
    port = str(free_port())
    with serving(tmp_path, "--port", port) as first:
        ranks = [Rank(n, first.url, first.token_file, tmp_path / "spool") for n in range(count)]
        time.sleep(BEFORE_S)
        first.process.kill()
        first.process.wait()
        time.sleep(AWAY_S)
    away = sum(rank.waited for rank in ranks)
    with serving(tmp_path, "--port", port):
        back = time.monotonic()
        time.sleep(AFTER_S)
        for rank in ranks:
            rank.end()
        while any(rank.waits for rank in ranks):
            assert time.monotonic() - back < PROMISED_S
            time.sleep(0.1)
        took_s = time.monotonic() - back
        for rank in ranks:
            rank.shipper.close()
    steps = sum(rank.steps for rank in ranks)
    print(f"{count} ranks, {steps} steps, {away} away: all acknowledged {took_s:.1f} s after")
    assert away == count, "the outage is too short: the test is blind"
    store = Store.open(f"sqlite:///{tmp_path / 'trainvitals.db'}")
    try:
        run = store.run("many")
        assert stored_rows(store, run.pk) == steps
        complete = store.detail(run).completeness
    finally:
        store.close()
    assert (complete.missing, complete.dropped) == (0, 0)
    assert run.run.state == "finished"
