"""What was acknowledged is there after a power cut of the collector, and there once."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import threading
import time

import pytest

from helpers.power_cut import PAGE, environment, mixed, stop, survivors
from helpers.senders import Sender, verify
from helpers.serving import serving
from trainvitals_server.store import Store

SENDERS = 3
SYNCHRONOUS_NORMAL = """
from trainvitals_server.store.sqlite import SqliteDatabase
connect = SqliteDatabase._connect_writer
def connect_writer(self):
    connection = connect(self)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection
SqliteDatabase._connect_writer = connect_writer
"""
"""The broken build: a commit is acknowledged before it is synced."""


@contextlib.contextmanager
def under_load(tmp_path, *, broken="", **settings):
    """Yield `cut`, which leaves a database as a power cut does; and the senders."""
    home, synced = tmp_path / "home", tmp_path / "synced"
    home.mkdir()
    synced.mkdir()
    variables = {**environment(tmp_path, home, synced), **settings}
    variables["TRAINVITALS_SEAL_INTERVAL_S"] = "0.05"
    senders = [Sender(number) for number in range(1, SENDERS + 1)]
    stopping = threading.Event()
    with serving(home, before=broken, **variables) as collector:
        token = collector.token_file.read_text().strip()
        threads = [
            threading.Thread(target=sender.send_until, args=(stopping, collector.url, token))
            for sender in senders
        ]

        def cut(into, later):
            into.mkdir()
            stop(collector.process.pid)
            try:
                time.sleep(0.02)  # the answers on their way arrive
                survivors(home, synced, into, later)
                return [sender.seq for sender in senders]
            finally:
                os.kill(collector.process.pid, signal.SIGCONT)

        for thread in threads:
            thread.start()
        try:
            while min(sender.seq for sender in senders) < 3:
                time.sleep(0.01)
            yield cut, senders
        finally:
            stopping.set()
            for thread in threads:
                thread.join(30)


def losses(tmp_path, cuts, *, broken="", **settings):
    """Return how many of `cuts` power cuts lost an acknowledged batch; the others are verified.

    The file is intact after each of them.
    """
    seed = random.randrange(2**32)
    print("seed", seed)
    chance, lost = random.Random(seed), 0
    with under_load(tmp_path, broken=broken, **settings) as (cut, senders):
        for number in range(cuts):
            time.sleep(chance.uniform(0, 0.05))
            left = tmp_path / f"cut{number}"
            acknowledged = cut(left, chance if number % 2 else None)
            try:
                verify_all(left, senders, acknowledged)
            except AssertionError:
                if not broken and not settings:
                    raise
                lost += 1
            with contextlib.closing(sqlite3.connect(left / "trainvitals.db")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            shutil.rmtree(left)
        assert sum(s.seq for s in senders) > 2 * cuts, "hardly any load: the test is blind"
    print(f"{lost} of {cuts} power cuts lost an acknowledged batch")
    return lost


def verify_all(left, senders, acknowledged):
    store = Store.open(f"sqlite:///{left / 'trainvitals.db'}")
    try:
        for sender, batches in zip(senders, acknowledged, strict=True):
            verify(store, sender.run, batches)
    finally:
        store.close()


def test_a_power_cut_loses_nothing_acknowledged_and_doubles_nothing(tmp_path):
    assert losses(tmp_path, 30) == 0


def test_a_build_that_does_not_sync_its_commits_is_found(tmp_path):
    assert losses(tmp_path, 20, broken=SYNCHRONOUS_NORMAL) > 5


def test_with_fast_durability_power_cuts_lose_batches_and_leave_an_intact_file(tmp_path):
    assert losses(tmp_path, 20, TRAINVITALS_DURABILITY="fast") > 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(10))
def test_power_cuts_for_minutes_lose_nothing(tmp_path, start):
    assert losses(tmp_path, 100) == 0


def test_a_page_that_was_not_synced_survives_or_not():
    old, new = b"o" * PAGE * 40, b"n" * PAGE * 60
    found = [mixed(old, new, random.Random(seed)) for seed in range(20)]
    assert {len(content) for content in found} == {len(old), len(new)}
    for content in found:
        pages = [set(content[at : at + PAGE]) for at in range(0, len(content), PAGE)]
        assert all(len(page) == 1 for page in pages)
        assert set.union(*pages) >= set(b"on")
        assert 0 not in set.union(*pages[:40])
