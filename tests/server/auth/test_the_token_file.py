"""At its start the collector creates an admin token and overwrites no token of another one."""

import os
import stat
from pathlib import Path

import pytest

from helpers.collector import running_collector
from helpers.up import running_up
from trainvitals.api.client import Client
from trainvitals_server.auth import Scope, Tokens
from trainvitals_server.auth.token_file import ensure_token_file, own_token_file
from trainvitals_server.store.migrate import parsed

OF_ANOTHER = "tv_ingest_0123456789ab_" + "x" * 43
"""A token of a remote collector: shown there once, and in no other place than this file."""


@pytest.fixture
def tokens(store):
    return Tokens(store.database)


@pytest.fixture
def shared(tmp_path):
    return tmp_path / "home" / "token"


@pytest.fixture
def own(tmp_path):
    return tmp_path / "own.token"


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_the_first_start_writes_an_admin_token_that_only_the_owner_reads(tokens, shared, own):
    assert ensure_token_file(tokens, shared, own) == shared
    granted = tokens.check(shared.read_text().strip())
    assert granted is not None
    assert granted.scope is Scope.ADMIN
    assert stat.S_IMODE(shared.stat().st_mode) == 0o600
    assert not own.exists()


def test_a_later_start_keeps_the_token(tokens, shared, own):
    ensure_token_file(tokens, shared, own)
    before = shared.read_text()
    assert ensure_token_file(tokens, shared, own) == shared
    assert shared.read_text() == before
    assert len(tokens.all()) == 1


def test_a_token_of_another_collector_is_left_as_it_is(tokens, shared, own):
    _put(shared, OF_ANOTHER)
    assert ensure_token_file(tokens, shared, own) == own
    assert shared.read_text() == OF_ANOTHER
    granted = tokens.check(own.read_text().strip())
    assert granted is not None
    assert granted.scope is Scope.ADMIN
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    before = own.read_text()
    assert ensure_token_file(tokens, shared, own) == own
    assert own.read_text() == before


def test_a_token_of_a_narrower_scope_is_left_as_it_is(tokens, shared, own):
    ingest = tokens.create(Scope.INGEST)
    _put(shared, ingest)
    assert ensure_token_file(tokens, shared, own) == own
    assert shared.read_text() == ingest


def test_a_file_that_is_not_text_is_left_as_it_is(tokens, shared, own):
    shared.parent.mkdir()
    shared.write_bytes(b"\xff\xfe")
    assert ensure_token_file(tokens, shared, own) == own
    assert shared.read_bytes() == b"\xff\xfe"


def test_a_revoked_token_of_this_database_and_an_empty_file_are_replaced(tokens, shared, own):
    ensure_token_file(tokens, shared, own)
    first = shared.read_text().strip()
    tokens.revoke(first.split("_")[2])
    assert ensure_token_file(tokens, shared, own) == shared
    second = shared.read_text().strip()
    assert tokens.check(second)
    shared.write_text("")
    assert ensure_token_file(tokens, shared, own) == shared
    assert tokens.check(shared.read_text().strip())


def test_a_temporary_file_left_by_a_killed_start_does_not_stop_the_next(tmp_path):
    # In a container the process id is the same at every start.
    left_over = tmp_path / f".token.{os.getpid()}"
    left_over.write_text("tv_")
    with running_collector(tmp_path) as collector:
        assert collector.get("/version").status_code == 200
    assert [path.name for path in tmp_path.glob(".token.*")] == [left_over.name]


def test_the_second_file_lies_beside_a_sqlite_database_or_in_the_home(tmp_path):
    database = parsed(f"sqlite:///{tmp_path}/runs.db")
    assert own_token_file(database, Path("/home/me")) == tmp_path / "runs.db.token"
    database = parsed("postgresql://me:secret@db.example/../runs")
    name = own_token_file(database, Path("/home/me"))
    assert name == Path("/home/me/db.example-5432-.._runs.token")


def test_up_says_which_token_to_use_when_the_file_is_of_another_collector(tmp_path):
    _put(tmp_path / "token", OF_ANOTHER)
    with running_up(tmp_path) as said:
        own = tmp_path / "trainvitals.db.token"
        assert f"token file:            {own}" in said
        assert f"{tmp_path / 'token'} holds a token that is not an admin token" in said
        url = said.partition("export TRAINVITALS_COLLECTOR=")[2].split()[0]
        assert f"export TRAINVITALS_TOKEN_FILE={own}" in said
        assert Client(url, own.read_text().strip()).ready()
    assert (tmp_path / "token").read_text() == OF_ANOTHER
