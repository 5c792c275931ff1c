"""What was acknowledged is there after a SIGKILL of the collector, and there once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2

from helpers.batches import amounts
from helpers.senders import Sender, verify
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
        verify(store, sender.run, sender.seq)
    with store.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()
