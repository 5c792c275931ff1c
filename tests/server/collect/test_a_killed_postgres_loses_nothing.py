"""What was acknowledged is there after Postgres, the collector or both were killed, and once.

Postgres syncs its commits. All its processes get SIGKILL at the same time, so that its buffers are
lost; the pages that it wrote stay with the kernel. What a disk loses besides is simulated for
SQLite in `test_a_power_cut_loses_nothing`.
"""

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from helpers.batches import amounts
from helpers.ports import free_port
from helpers.postgres import Postgres, running_postgres
from helpers.senders import Sender, verify
from helpers.serving import Serving, serving
from trainvitals.wire import decode
from trainvitals_server.store import Store
from trainvitals_server.store.models import LogFrame

pytestmark = pytest.mark.needs_postgres

SENDERS = 3
PARTS = (("postgres",), ("collector",), ("postgres", "collector"))
UNSYNCED = "-c synchronous_commit=off"
NOT_DURABLE = """
from trainvitals_server.store import postgres
postgres.require_synced_commits = lambda connection, record: None
"""
"""The broken build: it accepts a server that acknowledges a commit before it is written."""


@dataclass
class Service:
    """A collector on a Postgres, on one port through all restarts."""

    home: Path
    server: Postgres
    database_url: str
    before: str
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    collector: Serving | None = None
    port: int = 0

    def start(self) -> Serving:
        """Start the collector."""
        self.port = self.port or free_port()
        self.collector = self.running.enter_context(
            serving(
                self.home,
                "--port",
                str(self.port),
                before=self.before,
                TRAINVITALS_DATABASE_URL=self.database_url,
                TRAINVITALS_SEAL_INTERVAL_S="0.05",
            )
        )
        return self.collector

    def outage(self, parts: tuple[str, ...]) -> None:
        """Kill each of `parts`, and start them again."""
        assert self.collector is not None
        if "collector" in parts:
            self.collector.process.send_signal(signal.SIGKILL)
        if "postgres" in parts:
            self.server.kill()
            self.server.start()
        if "collector" in parts:
            self.collector.process.wait(30)
            self.running.close()
            self.start()


@contextlib.contextmanager
def service(tmp_path: Path, *, before: str = "", options: str = "") -> Iterator[Service]:
    """Yield a running collector on a server of its own."""
    with (
        running_postgres(synced=True, options=options) as server,
        server.database() as url,
    ):
        made = Service(tmp_path, server, url, before)
        made.start()
        with made.running:
            yield made


def after_outages(
    tmp_path: Path, outages: int, *, before: str = "", options: str = "", seals: bool = True
) -> None:
    """Send under load through `outages` outages; raise AssertionError for what is lost or doubled.

    With `seals`, the load goes on until rows were sealed after the last outage.
    """
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    senders = [Sender(number) for number in range(1, SENDERS + 1)]
    stopping = threading.Event()
    with service(tmp_path, before=before, options=options) as running:
        assert running.collector is not None
        url, token = running.collector.url, running.collector.token_file.read_text().strip()
        threads = [
            threading.Thread(
                target=sender.send_until, args=(stopping, url, token), kwargs={"outages": True}
            )
            for sender in senders
        ]
        for thread in threads:
            thread.start()
        try:
            for number in range(outages):
                reached(senders, max(sender.seq for sender in senders) + 3)
                time.sleep(chance.uniform(0, 0.1))
                running.outage(PARTS[number % len(PARTS)])
            # A segment has 1,024 rows.
            reached(senders, max(60 if seals else 0, max(sender.seq for sender in senders) + 3))
            if seals:
                wait_until_something_is_sealed(running.database_url)
        finally:
            stopping.set()
            for thread in threads:
                thread.join(30)
        verify_all(running.database_url, senders, seals=seals)


def reached(senders: list[Sender], seq: int) -> None:
    """Wait until each sender has `seq` batches acknowledged."""
    deadline = time.monotonic() + 60
    while min(sender.seq for sender in senders) < seq:
        assert time.monotonic() < deadline, f"{[sender.seq for sender in senders]} of {seq}"
        time.sleep(0.01)


def wait_until_something_is_sealed(database_url: str) -> None:
    """The thread that seals has a low priority: on a busy machine it is late."""
    store = Store.open(database_url)
    deadline = time.monotonic() + 60
    try:
        while not amounts(store).chunks:
            assert time.monotonic() < deadline, "nothing was sealed under load: the test is blind"
            time.sleep(0.1)
    finally:
        store.close()


def verify_all(database_url: str, senders: list[Sender], *, seals: bool) -> None:
    store = Store.open(database_url)
    try:
        if seals:
            assert amounts(store).chunks > 0, "nothing was sealed under load: the test is blind"
        for sender in senders:
            assert sender.acknowledged == list(range(sender.seq))
            verify(store, sender.run, sender.seq)
    finally:
        store.close()


def test_kills_of_postgres_and_of_the_collector_lose_and_double_nothing(tmp_path):
    # Also on a server whose default is to confirm a commit before it is written.
    after_outages(tmp_path, len(PARTS), options=UNSYNCED)


@pytest.mark.slow
def test_a_build_that_does_not_sync_its_commits_is_found(tmp_path):
    with pytest.raises(AssertionError, match=r"run1|run2|run3"):
        after_outages(tmp_path, 1, before=NOT_DURABLE, options=UNSYNCED, seals=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("options", ["", UNSYNCED], ids=["synced", "unsynced"])
def test_kills_for_minutes_lose_and_double_nothing(tmp_path, options):
    after_outages(tmp_path, 30, options=options)


def test_a_server_without_fsync_is_reported(postgres, caplog):
    with postgres.database() as url:
        store = Store.open(url)
        assert store.ready() is None
        store.close()
    assert "fsync=off" in caplog.text


def test_a_batch_that_is_stored_twice_is_found(store):
    sender = Sender(1)
    for _ in range(2):
        body = sender.body()
        store.ingest(decode(body), body)
        sender.seq += 1
    verify(store, sender.run, 2)
    columns = [column for column in LogFrame.__table__.c if column.key not in ("pk", "seq")]
    again = sa.select(*columns, LogFrame.seq + 1000).limit(1)
    names = [*(column.key for column in columns), "seq"]
    store.database.write(
        lambda connection: connection.execute(sa.insert(LogFrame).from_select(names, again))
    )
    with pytest.raises(AssertionError, match="twice"):
        verify(store, sender.run, 2)
