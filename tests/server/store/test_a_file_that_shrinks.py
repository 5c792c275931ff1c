"""The file of a SQLite store shrinks after a run was removed; nothing else changes."""

import sqlite3

import numpy as np
import pytest

from helpers.batches import batch, frame, ingest, start
from trainvitals.wire import Layout, Place, Stat, Stream
from trainvitals_server.store import Store
from trainvitals_server.store.removal import Removal, hide
from trainvitals_server.store.seal import Compactor
from trainvitals_server.store.shrink import SLICE_BYTES, Shrinking

PLACES = tuple(Place(f"w{i}") for i in range(100))
LAYOUT = Layout(Stream.WEIGHT, 0, (Stat.L2, Stat.MEAN), PLACES)
STEPS = 256


def values(seed):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((STEPS, len(PLACES), 2)).astype(np.float32)


def fill(store, run, source, batches=60):
    """Store about 12 MB that do not compress."""
    for seq in range(batches):
        steps = range(seq * STEPS, (seq + 1) * STEPS)
        records = [start(), LAYOUT] if seq == 0 else []
        sent = frame(Stream.WEIGHT, steps, values(seq))
        ingest(store, batch(*records, sent, run=run, seq=seq, source=source * 16))
    while Compactor(store.database).run_once(everything=True):
        pass


def remove(store, run):
    pk = store.run(run).pk
    store.database.write(lambda connection: hide(connection, pk))
    assert Removal(store.database).run_once() == 1


def norms(store, run):
    found = store.curves(store.run(run).pk, Stream.WEIGHT, Stat.L2, ["w0"], points=20_000)
    return found.spans.newest[:, 0].tolist()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "test.db"


@pytest.fixture
def opened(path):
    store = Store.open(f"sqlite:///{path}")
    yield store
    store.close()


def size_of(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def test_the_space_of_a_removed_run_returns_to_the_file_system(opened, path):
    fill(opened, "kept", b"k", batches=10)
    before = size_of(path)
    fill(opened, "removed", b"r")
    full = size_of(path)
    kept = norms(opened, "kept")
    remove(opened, "removed")
    assert size_of(path) >= full - SLICE_BYTES  # free pages alone do not shrink the file
    shrinking = Shrinking(opened.database, reserve_bytes=0)
    freed = 0
    while now := shrinking.run_once():
        freed += now
    assert freed > 0.5 * (full - before)
    assert size_of(path) <= full - freed
    assert norms(opened, "kept") == kept


def test_a_reserve_of_free_pages_stays_for_the_log(opened, path):
    fill(opened, "removed", b"r")
    remove(opened, "removed")
    before = size_of(path)
    assert Shrinking(opened.database).run_once() == 0
    assert size_of(path) == before


def test_it_stops_after_the_current_slice_when_the_collector_stops(opened):
    fill(opened, "removed", b"r")
    remove(opened, "removed")
    stops = iter([False, True])
    assert Shrinking(opened.database, lambda: next(stops), 0).run_once() == SLICE_BYTES


def test_a_file_of_an_earlier_version_keeps_its_size(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE old (x)")  # a file that is not empty keeps its mode
        connection.execute("DROP TABLE old")
    connection.close()
    store = Store.open(f"sqlite:///{path}")
    try:
        fill(store, "removed", b"r", batches=30)
        remove(store, "removed")
        assert Shrinking(store.database, reserve_bytes=0).run_once() == 0
    finally:
        store.close()


@pytest.mark.needs_postgres
def test_postgres_is_left_alone(postgres):
    with postgres.database() as url:
        store = Store.open(url)
        try:
            assert Shrinking(store.database, reserve_bytes=0).run_once() == 0
        finally:
            store.close()


def test_sealed_batches_are_not_overwritten_with_zeros(opened, path):
    """That would write each batch once more; the sealed blocks have other bytes than the log."""
    store = opened
    fill(store, "a", b"a", batches=4)
    log = values(0).tobytes()[:64]
    files = (path, path.with_name(path.name + "-wal"))
    assert any(log in file.read_bytes() for file in files if file.exists())
    assert store.database.write(lambda c: c.exec_driver_sql("PRAGMA secure_delete").scalar()) == 0
