"""Tasks of one commit do not affect each other; a stopped queue leaves one complete file."""

import shutil
import threading

import pytest
import sqlalchemy as sa

from helpers.batches import batch, ingest, start
from trainvitals_server.auth import Scope, Tokens
from trainvitals_server.store import Store
from trainvitals_server.store.models import Token


def token_named(name):
    values = {"id": name, "scope": "read", "sha256": b"", "label": "", "created_at": 0.0}
    return lambda connection: connection.execute(sa.insert(Token), [values])


def fails_after(task):
    def run(connection):
        task(connection)
        raise ArithmeticError

    return run


def names(store):
    with store.database.read() as connection:
        return sorted(connection.scalars(sa.select(Token.id)))


class Held:
    """A SQLite store whose writer waits until `release`."""

    def __init__(self, url):
        self.store = Store.open(url)
        self._entered, self._leave = threading.Event(), threading.Event()
        self.first = self.store.database.submit(self._wait)
        assert self._entered.wait(30)

    def _wait(self, _):
        self._entered.set()
        assert self._leave.wait(30)

    def release(self):
        self._leave.set()


@pytest.fixture
def held(tmp_path):
    opened = Held(f"sqlite:///{tmp_path / 'x.db'}")
    yield opened
    opened.release()
    opened.store.close()


def test_a_task_that_fails_alone_leaves_nothing(store):
    with pytest.raises(ArithmeticError):
        store.database.write(fails_after(token_named("a")))
    store.database.write(token_named("b"))
    assert names(store) == ["b"]


def test_a_task_that_fails_leaves_nothing_and_the_others_of_its_commit_stay(held):
    tasks = [token_named("a"), fails_after(token_named("b")), token_named("c"), token_named("c")]
    futures = [held.store.database.submit(task) for task in tasks]
    held.release()
    assert [type(future.exception(30)) for future in futures] == [
        type(None),
        ArithmeticError,
        type(None),
        sa.exc.IntegrityError,
    ]
    assert names(held.store) == ["a", "c"]


def test_a_cancelled_task_is_left_out_and_the_queue_goes_on(held):
    database = held.store.database
    cancelled = database.submit(token_named("a"), size=5)
    after = database.submit(token_named("b"))
    assert cancelled.cancel()
    held.release()
    after.result(30)
    assert names(held.store) == ["b"]
    assert database.waiting_bytes == 0
    assert database.failed() is None


def test_a_token_is_remembered_until_it_ends_or_for_a_second_if_others_can_revoke_it(store):
    now = 100.0
    tokens = Tokens(store.database, clock=lambda: now)
    short, long = (tokens.create(Scope.READ, lifetime_s=life) for life in (10, 1000))
    for token in (short, long):
        assert tokens.remembered(token) is None
        granted = tokens.check(token)
        now += 0.9
        assert tokens.remembered(token) == granted
        now += 0.2
        expected = granted if store.database.dialect == "sqlite" else None
        assert tokens.remembered(token) == expected
        now = 50.0  # the clock was set back
        assert tokens.remembered(token) == expected
        now = 100.0
    now = 111.0
    assert tokens.remembered(short) is None
    tokens.revoke(long.split("_")[2])
    assert tokens.remembered(long) is None
    assert tokens.check(long) is None


def test_after_a_stop_the_file_alone_has_everything(tmp_path):
    path = tmp_path / "test.db"
    store = Store.open(f"sqlite:///{path}")
    ingest(store, batch(start()))
    assert store.run("r") is not None, "a reader has been open"
    store.close()
    assert [file.name for file in tmp_path.glob("test.db-*")] == []
    copy = shutil.copy(path, tmp_path / "copy.db")
    again = Store.open(f"sqlite:///{copy}")
    assert again.run("r") is not None
    again.close()
