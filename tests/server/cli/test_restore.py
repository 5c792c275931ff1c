"""`db restore` puts a checked backup in place, keeps what it replaced, and touches nothing else."""

import sqlite3

import pytest
import typer
from typer.testing import CliRunner

from helpers.batches import batch, ingest, scalar_frame, scalars, start
from helpers.serving import serving
from trainvitals.wire import Stat, Stream
from trainvitals_server.cli import register
from trainvitals_server.store import Store

app = typer.Typer()
register(app)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, words)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "trainvitals.db"


def store_steps(path, first, last):
    store = Store.open(f"sqlite:///{path}")
    head = [start(), scalars("loss")] if first == 0 else []
    values = [float(step) for step in range(first, last)]
    ingest(store, batch(*head, scalar_frame(range(first, last), values), seq=first))
    return store


def steps(path):
    store = Store.open(f"sqlite:///{path}")
    pk = store.run("r").pk
    found = store.curves(pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=2000).spans.first
    store.close()
    return found.tolist()


@pytest.fixture
def backed_up(run, database):
    """Ten steps in the backup, twenty in the database."""
    store_steps(database, 0, 10).close()
    assert run("db", "backup", "copy.db").exit_code == 0
    store_steps(database, 10, 20).close()
    return database.with_name("copy.db")


def test_the_backup_is_in_place_and_the_replaced_file_is_kept(run, database, backed_up):
    done = run("db", "restore", "copy.db")
    assert done.exit_code == 0, done.output
    assert steps(database) == list(range(10))
    assert backed_up.exists()
    [kept] = database.parent.glob("trainvitals.db.replaced-*Z")
    assert str(kept) in done.stderr
    assert steps(kept) == list(range(20))


def test_the_log_of_a_killed_collector_is_kept_and_not_applied(run, database, backed_up):
    store = store_steps(database, 20, 30)  # not closed: its last steps are in the log only
    wal = database.with_name("trainvitals.db-wal")
    whole = {path: path.read_bytes() for path in (database, wal)}
    store.close()
    for path, content in whole.items():
        path.write_bytes(content)
    assert run("db", "restore", "copy.db").exit_code == 0
    assert steps(database) == list(range(10))
    [kept] = database.parent.glob("trainvitals.db.replaced-*Z")
    assert steps(kept) == list(range(30))


def test_it_is_refused_while_a_collector_uses_the_database(run, database, backed_up, tmp_path):
    with serving(tmp_path) as collector:
        refused = run("db", "restore", "copy.db")
        assert refused.exit_code == 2
        assert f"process {collector.process.pid}" in refused.stderr
    assert steps(database) == list(range(20))


@pytest.mark.parametrize("damage", ["page", "truncated", "text", "empty", "foreign", "newer"])
def test_a_backup_that_cannot_be_used_changes_nothing(run, database, backed_up, damage):
    content = bytearray(backed_up.read_bytes())
    if damage == "page":
        at = len(content) // 2
        content[at : at + 16384] = b"\xff" * 16384
    backed_up.write_bytes(
        {"truncated": content[:-20_000], "text": b"x" * 9000, "empty": b""}.get(damage, content)
    )
    if damage in ("foreign", "newer"):
        statement = "DROP TABLE alembic_version" if damage == "foreign" else (
            "UPDATE alembic_version SET version_num = '9999'"
        )  # fmt: skip
        with sqlite3.connect(backed_up) as connection:
            connection.execute(statement)
        connection.close()
    before = database.read_bytes()
    refused = run("db", "restore", "copy.db")
    assert refused.exit_code == 2, refused.output
    assert "unchanged" in refused.stderr
    assert database.read_bytes() == before
    assert list(database.parent.glob("*.replaced-*")) == []
    assert list(database.parent.glob("*.part")) == []


def test_a_live_database_is_no_backup(run, database, tmp_path):
    store_steps(database, 0, 10).close()
    other = store_steps(tmp_path / "other.db", 0, 5)
    refused = run("db", "restore", "other.db")
    other.close()
    assert (refused.exit_code, "live database" in refused.stderr) == (2, True)
    assert run("db", "restore", "trainvitals.db").exit_code == 2
    assert steps(database) == list(range(10))


def test_a_lost_database_is_restored(run, database, backed_up):
    database.unlink()
    assert run("db", "restore", "copy.db").exit_code == 0
    assert steps(database) == list(range(10))


def test_for_postgres_it_names_pg_restore(run):
    refused = run("db", "restore", "x.dump", "--database", "postgresql://me:secret@db.example/tv")
    assert (refused.exit_code, "pg_restore" in refused.stderr) == (2, True)
    assert "secret" not in refused.stderr
