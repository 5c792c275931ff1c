"""`db backup` copies a database while it is written to; the copy is complete and usable."""

import shutil
import sqlite3
import stat
import threading

import pytest
import typer
from typer.testing import CliRunner

from helpers.batches import batch, ingest, scalar_frame, scalars, start
from trainvitals.wire import Stat, Stream
from trainvitals_server.cli import register
from trainvitals_server.store import Store, backup

app = typer.Typer()
register(app)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, words)


def losses(store):
    pk = store.run("r").pk
    return store.curves(pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=2000).spans.newest[:, 0]


def test_a_copy_under_load_holds_what_was_acknowledged_before_it(run, tmp_path):
    url = f"sqlite:///{tmp_path / 'live.db'}"
    store = Store.open(url)
    ingest(store, batch(start(), scalars("loss")))
    acknowledged = [0]
    stopping = threading.Event()

    def load():
        while not stopping.is_set() and acknowledged[0] < 1500:
            seq = acknowledged[0] + 1
            ingest(store, batch(scalar_frame([seq - 1], [float(seq - 1)]), seq=seq))
            acknowledged[0] = seq

    thread = threading.Thread(target=load)
    thread.start()
    while acknowledged[0] < 100:
        pass
    before = acknowledged[0]
    done = run("db", "backup", "copy.db", "--database", url)
    after = acknowledged[0]
    stopping.set()
    thread.join()
    store.close()
    assert done.exit_code == 0, done.output
    assert [f.name for f in tmp_path.glob("copy.db*")] == ["copy.db"]
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    restored = Store.open(f"sqlite:///{tmp_path / 'copy.db'}")
    assert restored.run("r") is not None
    found = losses(restored)
    assert before <= len(found) <= after + 1
    assert found.tolist() == [float(i) for i in range(len(found))]
    ingest(restored, batch(scalar_frame([5000], [1.0]), seq=5000))
    restored.close()


def test_a_build_that_copies_the_file_alone_is_found(run, tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "_copy", shutil.copyfile)
    with pytest.raises(AssertionError):
        test_a_copy_under_load_holds_what_was_acknowledged_before_it(run, tmp_path)


def test_it_replaces_no_file_and_needs_a_database(run, tmp_path):
    url = f"sqlite:///{tmp_path / 'live.db'}"
    Store.open(url).close()
    (tmp_path / "mine.db").write_text("mine")
    refused = run("db", "backup", "mine.db", "--database", url)
    assert (refused.exit_code, (tmp_path / "mine.db").read_text()) == (2, "mine")
    nothing = run("db", "backup", "copy.db", "--database", f"sqlite:///{tmp_path / 'no.db'}")
    assert (nothing.exit_code, "no database" in nothing.stderr) == (2, True)
    assert not (tmp_path / "no.db").exists()


def test_a_damaged_database_is_not_copied_as_if_it_were_whole(run, tmp_path):
    path = tmp_path / "live.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x BLOB)")
        connection.executemany(
            "INSERT INTO t VALUES (?)", [(bytes([i]) * 3000,) for i in range(99)]
        )
    connection.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    refused = run("db", "backup", "copy.db", "--database", f"sqlite:///{path}")
    assert refused.exit_code == 2
    assert list(tmp_path.glob("copy.db*")) == []


def test_for_postgres_it_names_pg_dump_without_the_password(run):
    refused = run("db", "backup", "x.dump", "--database", "postgresql://me:secret@db.example/tv")
    assert refused.exit_code == 2
    assert "pg_dump --format=custom --file=x.dump postgresql://me@db.example/tv" in refused.stderr
    assert "secret" not in refused.stderr
