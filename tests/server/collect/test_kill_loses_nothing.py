"""What was acknowledged is there after a SIGKILL of the collector, and there once."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np

from helpers.batches import amounts, batch, scalar_frame, scalars, start
from trainvitals.wire import CONTENT_TYPE, Stat, Stream, encode
from trainvitals_server.store import Store

CYCLES = 10
SENDERS = 3
COMMAND = """
import typer
from trainvitals_server.cli import register
app = typer.Typer()
register(app)
app()
"""
ROWS = 20


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

    def send_until(self, stop: threading.Event, url: str, token: str) -> None:
        headers = {"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {token}"}
        with httpx2.Client(trust_env=False, timeout=5) as client:
            while not stop.is_set():
                try:
                    answer = client.post(
                        f"{url}/api/v1/ingest", content=self.body(), headers=headers
                    )
                except httpx2.HTTPError:
                    return  # killed: whether it was stored is unknown, so it is sent again
                assert answer.status_code == 200, answer.text
                assert answer.json()["seq"] == self.seq
                self.acknowledged.append(self.seq)
                self.seq += 1


def collector_process(home: Path) -> tuple[subprocess.Popen[str], str]:
    """Start `trainvitals serve`; return it and its address, once it answers."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", "--port", "0"],
        env={**os.environ, "TRAINVITALS_HOME": str(home), "TRAINVITALS_SEAL_INTERVAL_S": "0.05"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "http://" in line, line
    url = line.split()[-1]
    threading.Thread(target=process.stderr.read, daemon=True).start()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx2.get(f"{url}/healthz", trust_env=False, timeout=5).raise_for_status()
            return process, url
        except httpx2.HTTPError:
            time.sleep(0.05)
    raise AssertionError("the collector does not start")


def test_a_kill_loses_nothing_acknowledged_and_doubles_nothing(tmp_path):
    senders = [Sender(number) for number in range(1, SENDERS + 1)]
    for cycle in range(CYCLES):
        process, url = collector_process(tmp_path)
        token = (tmp_path / "token").read_text().strip()
        stop = threading.Event()
        threads = [
            threading.Thread(target=sender.send_until, args=(stop, url, token))
            for sender in senders
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.2 + 0.05 * cycle)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        stop.set()
        for thread in threads:
            thread.join()

    store = Store.open(f"sqlite:///{tmp_path / 'trainvitals.db'}")
    assert amounts(store).chunks > 0, "nothing was sealed under load: the test is blind"
    for sender in senders:
        assert len(sender.acknowledged) > CYCLES, "hardly any load: the test is blind"
        assert sender.acknowledged == list(range(sender.seq))
        summary = store.run(sender.run)
        found = store.curves(summary.pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=10**9)
        steps, values = found.spans.first, found.spans.newest[:, 0]
        # The batch that was under way when the process died may be there too: whole.
        batches = len(steps) // ROWS
        assert batches in (sender.seq, sender.seq + 1)
        np.testing.assert_array_equal(steps, np.arange(batches * ROWS))
        np.testing.assert_array_equal(values, np.arange(batches * ROWS))
        assert found.spans.count.sum() == batches * ROWS
    with store.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()
