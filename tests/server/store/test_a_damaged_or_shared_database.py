"""A database that is damaged, emptied or in use is refused; a failed writer ends the collector."""

import concurrent.futures
import contextlib
import ctypes
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from helpers.batches import batch, ingest, start
from helpers.collector import running_collector
from helpers.postgres import running_postgres
from trainvitals.wire.records import RunEnd
from trainvitals_server.store import Store
from trainvitals_server.store.lock import one_collector
from trainvitals_server.store.migrate import StoreUnusable, lock_path, migrate, parsed

ROOT = Path(__file__).parents[3]
COMMAND = """
import typer
from trainvitals_server.cli import register
app = typer.Typer()
register(app)
app()
"""


def serve(home: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", "--port", "0"],
        env={**os.environ, "TRAINVITALS_HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_collector_on_one_file_is_refused_with_what_to_do(tmp_path):
    first = serve(tmp_path)
    try:
        while "token file" not in first.stderr.readline():
            assert first.poll() is None
        second = serve(tmp_path)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 2
        assert f"process {first.pid}" in said
        assert "--database" in said
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        third = serve(tmp_path)
        while "token file" not in third.stderr.readline():
            assert third.poll() is None, "a killed collector leaves no lock"
        third.terminate()
        third.communicate(timeout=30)
    finally:
        first.kill()
        first.communicate()


def used(tmp_path) -> Path:
    """Return a database that a collector has created, with one run."""
    path = tmp_path / "x.db"
    with one_collector(parsed(f"sqlite:///{path}")) as created:
        store = Store.open(f"sqlite:///{path}")
        created()
        ingest(store, batch(start()))
        store.close()
    return path


def test_an_emptied_database_is_not_taken_for_a_new_one(tmp_path):
    path = used(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(StoreUnusable, match="content is lost"):
        Store.open(f"sqlite:///{path}")
    assert path.read_bytes() == b""
    path.unlink()
    lock_path(path).unlink()
    Store.open(f"sqlite:///{path}").close()


def test_a_start_that_was_killed_before_the_tables_existed_is_repeated(tmp_path):
    path = tmp_path / "x.db"
    with one_collector(parsed(f"sqlite:///{path}")):
        path.touch()
    Store.open(f"sqlite:///{path}").close()


@pytest.mark.parametrize("left", [50, 4096, 0.5])
def test_a_truncated_database_is_refused_and_left_as_it_is(tmp_path, left):
    path = used(tmp_path)
    whole = path.read_bytes()
    part = whole[: left if isinstance(left, int) else int(len(whole) * left)]
    path.write_bytes(part)
    with pytest.raises(StoreUnusable, match="truncated"):
        migrate(f"sqlite:///{path}")
    assert path.read_bytes() == part


@pytest.mark.parametrize("error", ["disk I/O error", "database disk image is malformed"])
def test_after_a_failure_of_the_disk_nothing_is_acknowledged_and_healthz_tells(tmp_path, error):
    kind = sa.exc.OperationalError if "I/O" in error else sa.exc.DatabaseError
    with running_collector(tmp_path) as collector:

        def fails(_):
            raise kind("INSERT", {}, sqlite3.DatabaseError(error))

        with pytest.raises(kind):
            collector.store.database.write(fails)
        assert collector.send(batch(start())).status_code >= 500
        answer = collector.get("/healthz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "not_ready")


def test_healthz_and_the_check_of_compose_fail_after_the_writer_was_killed(
    tmp_path,
):
    def check():
        service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["collector"]
        command = service["healthcheck"]["test"][1:]
        own = collector.url.removeprefix("http://")
        there = [part.replace("127.0.0.1:8321", own) for part in command]
        return subprocess.run([sys.executable, *there[1:]], capture_output=True).returncode

    with running_collector(tmp_path) as collector:
        assert (collector.get("/healthz").status_code, check()) == (200, 0)
        writer = collector.store.database._thread
        # Raised in the thread itself at its next instruction, outside of any task.
        kill = ctypes.pythonapi.PyThreadState_SetAsyncExc
        assert kill(ctypes.c_ulong(writer.ident), ctypes.py_object(SystemExit)) == 1
        # It waits in a lock; a task wakes it.
        with contextlib.suppress(RuntimeError, SystemExit, concurrent.futures.TimeoutError):
            collector.store.database.submit(lambda _: None).result(10)
        writer.join(10)
        assert not writer.is_alive()
        assert collector.get("/healthz").status_code == 503
        assert check() == 1


def test_the_command_exits_with_1_when_the_writer_fails(tmp_path):
    # The rounds write each second, so the failure is noticed without a request.
    failing = COMMAND.replace(
        "app()\n",
        "import threading\n"
        "from trainvitals_server.store.sqlite import SqliteDatabase\n"
        "def fail(self, connection, group): raise OSError('EIO')\n"
        "threading.Timer(4, setattr, (SqliteDatabase, '_commit', fail)).start()\n"
        "app()\n",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", failing, "serve", "--port", "0"],
        env={**os.environ, "TRAINVITALS_HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "no longer stores batches" in said


def test_a_late_failed_end_of_an_older_attempt_does_not_end_the_live_run(store):
    ingest(store, batch(start(started_at=100), source=b"a" * 16))
    ingest(store, batch(start(started_at=200), source=b"b" * 16))
    ingest(store, batch(RunEnd(150.0, 2, "failed"), seq=1, source=b"a" * 16))
    assert store.run("r").run.state == "running"


def test_a_failed_rank_of_the_newest_attempt_ends_the_run(store):
    ingest(store, batch(start(started_at=100), source=b"a" * 16))
    ingest(store, batch(start(started_at=100), source=b"b" * 16, rank=1))
    ingest(store, batch(RunEnd(150.0, 2, "failed"), seq=1, source=b"b" * 16, rank=1))
    assert store.run("r").run.state == "failed"


def test_a_conflict_does_not_name_another_project(collector):
    collector.send(batch(start(), project="secret-project"))
    collector.send(batch(start(), run="mine::r", project="secret-project", source=b"y" * 16))
    answer = collector.send(batch(start(), project="mine", source=b"z" * 16))
    assert (answer.status_code, answer.json()["reason"]) == (409, "run_in_other_project")
    assert "secret-project" not in answer.text


@pytest.mark.needs_postgres
def test_while_postgres_is_away_the_answer_is_503(tmp_path):
    with (
        running_postgres() as server,
        server.database() as url,
        running_collector(tmp_path, url) as collector,
    ):
        assert collector.send(batch(start())).status_code == 200
        server.control("-m", "immediate", "stop")
        answer = collector.send(batch(start(), seq=1))
        assert (answer.status_code, answer.json()["reason"]) == (503, "database_away")
        server.start()
        assert collector.send(batch(start(), seq=1)).status_code == 200
