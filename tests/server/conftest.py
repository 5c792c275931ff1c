"""The store and the collector, on SQLite and on a real Postgres."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.collector import Collector, running_collector
from helpers.postgres import Postgres, running_postgres
from trainvitals_server.store import Store
from trainvitals_server.store.migrate import migrate

ENGINES = ["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the tables of this version; a copy takes a tenth of the migrations."""
    path = tmp_path_factory.mktemp("migrated") / "migrated.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with tables and no rows: every test that asks for it runs on both engines."""
    if request.param == "sqlite":
        file = shutil.copy2(request.getfixturevalue("migrated_file"), tmp_path / "test.db")
        yield f"sqlite:///{file}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.migrated_database() as url:
        yield url


@pytest.fixture(params=ENGINES)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables, for tests of the migrations."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database() as url:
        yield url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    opened = Store.open(database_url)
    yield opened
    opened.close()


@pytest.fixture
def collector(tmp_path: Path, database_url: str) -> Iterator[Collector]:
    with running_collector(tmp_path, database_url) as running:
        yield running


@pytest.fixture
def sqlite_collector(tmp_path: Path, migrated_file: Path) -> Iterator[Collector]:
    shutil.copy2(migrated_file, tmp_path / "trainvitals.db")
    with running_collector(tmp_path) as running:
        yield running
