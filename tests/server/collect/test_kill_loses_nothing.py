"""What was acknowledged is there after a SIGKILL of the collector, and there once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

from helpers import plain_http
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
ANSWERS_FIRST = """
import time
from concurrent.futures import Future
from trainvitals_server.store.sqlite import SqliteDatabase
commit = SqliteDatabase._commit
def early(task, answer):
    def run(connection):
        try:
            result = task(connection)
        except BaseException as error:
            answer.set_exception(error)
            raise
        answer.set_result(result)
        time.sleep(0.005)
        return result
    return run
def answer_first(self, connection, group):
    for waiting in group:
        waiting.task, waiting.answer = early(waiting.task, waiting.answer), Future()
    commit(self, connection, group)
SqliteDatabase._commit = answer_first
"""
"""The broken build: a batch is acknowledged before it is committed."""


def collector_process(home: Path, broken: str) -> tuple[subprocess.Popen[str], str]:
    """Start `trainvitals serve`; return it and its address, once it answers."""
    process = subprocess.Popen(
        [sys.executable, "-c", broken + COMMAND, "serve", "--port", "0"],
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
            plain_http.get(f"{url}/healthz", timeout=5).raise_for_status()
            return process, url
        except httpx2.HTTPError:
            time.sleep(0.05)
    raise AssertionError("the collector does not start")


def kill_under_load(home: Path, senders: list[Sender], load_s: float, broken: str = "") -> None:
    """Start a collector, send to it for a while, and kill it."""
    process, url = collector_process(home, broken)
    token = (home / "token").read_text().strip()
    stop = threading.Event()
    threads = [
        threading.Thread(target=sender.send_until, args=(stop, url, token)) for sender in senders
    ]
    for thread in threads:
        thread.start()
    time.sleep(load_s)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    stop.set()
    for thread in threads:
        thread.join()


def is_lost(home: Path, senders: list[Sender]) -> bool:
    store = Store.open(f"sqlite:///{home / 'trainvitals.db'}")
    try:
        for sender in senders:
            verify(store, sender.run, sender.seq)
    except AssertionError:
        return True
    finally:
        store.close()
    return False


def test_a_kill_loses_nothing_acknowledged_and_doubles_nothing(tmp_path):
    senders = [Sender(number) for number in range(1, SENDERS + 1)]
    for cycle in range(CYCLES):
        kill_under_load(tmp_path, senders, 0.2 + 0.05 * cycle)

    store = Store.open(f"sqlite:///{tmp_path / 'trainvitals.db'}")
    assert amounts(store).chunks > 0, "nothing was sealed under load: the test is blind"
    for sender in senders:
        assert len(sender.acknowledged) > CYCLES, "hardly any load: the test is blind"
        assert sender.acknowledged == list(range(sender.seq))
        verify(store, sender.run, sender.seq)
    with store.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()


def test_a_build_that_answers_before_it_commits_is_found(tmp_path):
    for cycle in range(CYCLES):
        home, senders = tmp_path / str(cycle), [Sender(1), Sender(2), Sender(3)]
        kill_under_load(home, senders, 0.5 + 0.05 * cycle, ANSWERS_FIRST)
        if is_lost(home, senders):
            return
    pytest.fail(f"No acknowledged batch was lost in {CYCLES} kills: the test is blind.")
