"""What the store or the collector acknowledged is there after a SIGKILL, and there once.

Each kill comes after a random number of acknowledgements, while other batches are on their way and
segments are sealed. A failing test names its seed.
"""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from helpers import plain_http
from helpers.batches import amounts
from helpers.forks import Forked, Forks, forks
from helpers.senders import Sender, verify
from trainvitals_server.store import Store

SENDERS = 3
PATIENCE_S = 60.0
COMMAND = """
import sys, typer
from trainvitals_server.cli import register
app = typer.Typer()
register(app)
app()
"""
STORE = """
import os, sys, threading
from helpers.senders import Sender
from trainvitals.wire import decode
from trainvitals_server.store import Store
from trainvitals_server.store.database import open_database
from trainvitals_server.store.migrate import parsed
from trainvitals_server.store.seal import Compactor

url, *first = sys.argv[1:]
if any(map(int, first)):  # the tables exist: no time for the migrations
    database = open_database(parsed(url), queue_bytes_max=2**26, durability="full")
    store = Store(database)
else:
    store = Store.open(url)
Compactor(store.database, interval_s=0.01).start()

def send(number, seq):
    sender = Sender(number, seq=seq)
    while True:
        body = sender.body()
        store.ingest(decode(body), body)
        os.write(1, f"{number} {sender.seq}\\n".encode())
        sender.seq += 1

for number, seq in enumerate(map(int, first), 1):
    threading.Thread(target=send, args=(number, seq)).start()
threading.Event().wait()
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


@pytest.fixture(scope="module")
def programs() -> Iterator[Forks]:
    with forks("trainvitals_server.cli", "helpers.senders") as made:
        yield made


@pytest.fixture
def chance() -> random.Random:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def wait_for(reached, running: Forked) -> None:
    """Return when `reached()` is true; fail if the program ends or nothing happens."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert running.is_running(), running.output.read_text()
        assert time.monotonic() < deadline, "nothing is acknowledged"
        time.sleep(0.001)


def kill_a_store(
    programs: Forks, home: Path, senders: list[Sender], kill_after: int, broken: str = ""
) -> None:
    """Store batches in a process of its own; kill it after so many acknowledgements."""
    output = home / "acknowledged"
    output.unlink(missing_ok=True)
    url, seqs = f"sqlite:///{home / 'trainvitals.db'}", [str(sender.seq) for sender in senders]
    running = programs.start(broken + STORE, url, *seqs, output=output)
    wait_for(lambda: output.read_bytes().count(b"\n") >= kill_after, running)
    running.kill()
    lines = output.read_bytes().split(b"\n")[:-1]
    for number, seq in (map(int, line.split()) for line in lines):
        assert seq == senders[number - 1].seq
        senders[number - 1].acknowledged.append(seq)
        senders[number - 1].seq += 1


def kill_a_collector(programs: Forks, home: Path, senders: list[Sender], kill_after: int) -> float:
    """Send to a collector, and kill it; return the seconds until it answered."""
    output = home / "log"
    output.unlink(missing_ok=True)
    environ = {"TRAINVITALS_HOME": str(home), "TRAINVITALS_SEAL_INTERVAL_S": "0.05"}
    began = time.monotonic()
    running = programs.start(COMMAND, "serve", "--port", "0", output=output, environ=environ)
    wait_for(lambda: "http://" in output.read_text(), running)
    url = next(word for word in output.read_text().split() if word.startswith("http://"))
    wait_for(lambda: is_alive(url), running)
    ready_s = time.monotonic() - began
    token, stop = (home / "token").read_text().strip(), threading.Event()
    threads = [
        threading.Thread(target=sender.send_until, args=(stop, url, token)) for sender in senders
    ]
    for thread in threads:
        thread.start()
    enough = sum(sender.seq for sender in senders) + kill_after
    wait_for(lambda: sum(sender.seq for sender in senders) >= enough, running)
    running.kill()
    stop.set()
    for thread in threads:
        thread.join()
    return ready_s


def is_alive(url: str) -> bool:
    try:
        return plain_http.get(f"{url}/healthz", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


def check(home: Path, senders: list[Sender]) -> None:
    """Assert that all that was acknowledged is stored once, in a file that is intact."""
    store = Store.open(f"sqlite:///{home / 'trainvitals.db'}")
    try:
        for sender in senders:
            assert sender.acknowledged == list(range(sender.seq))
            verify(store, sender.run, sender.seq)
        with store.database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert amounts(store).chunks > 0, "nothing was sealed under load: the test is blind"
    finally:
        store.close()


def team() -> list[Sender]:
    return [Sender(number) for number in range(1, SENDERS + 1)]


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("kills", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_kills_of_the_store_lose_and_double_nothing(programs, chance, tmp_path, kills):
    senders = team()
    for _ in range(kills):
        kill_a_store(programs, tmp_path, senders, chance.randrange(1, 60))
    check(tmp_path, senders)
    print(f"{kills} kills, {sum(sender.seq for sender in senders)} batches acknowledged")


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("kills", [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_kills_of_the_collector_under_load_lose_and_double_nothing(
    programs, chance, tmp_path, kills
):
    senders, ready_s = team(), []
    for _ in range(kills):
        kill_after = chance.randrange(1, 60)
        ready_s.append(kill_a_collector(programs, tmp_path, senders, kill_after))
    check(tmp_path, senders)
    typical_s = sorted(ready_s)[kills // 2]
    print(f"{kills} kills, {sum(sender.seq for sender in senders)} batches acknowledged")
    print(f"ready after {typical_s:.2f} s (median), {max(ready_s):.2f} s at most")


def test_a_build_that_answers_before_it_commits_is_found(programs, chance, tmp_path):
    for kill in range(50):
        home, senders = tmp_path / str(kill), team()
        home.mkdir()
        kill_a_store(programs, home, senders, chance.randrange(5, 60), ANSWERS_FIRST)
        try:
            check(home, senders)
        except AssertionError as lost:
            if "is lost" in str(lost) or " of " in str(lost):
                return
    pytest.fail("No acknowledged batch was lost in 50 kills: the test is blind.")
