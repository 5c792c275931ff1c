"""The tables that migrations build are the tables that the code speaks of."""

import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import make_url

from helpers.batches import amounts, batch, ingest, scalar_frame, scalars, start
from trainvitals.wire import Heartbeat, Scalar, Stat, Stream
from trainvitals.wire.codec import read_frame
from trainvitals_server.store import Store
from trainvitals_server.store.migrate import StoreUnusable, migrate
from trainvitals_server.store.models import Base
from trainvitals_server.store.seal import Compactor

TESTS = Path(__file__).parents[2]


def engine_of(url: str) -> sa.Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed, poolclass=sa.pool.NullPool)


def test_migrations_and_models_agree(empty_database_url):
    migrate(empty_database_url)
    with engine_of(empty_database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.needs_postgres
def test_postgres_does_not_compress_values_again(postgres):
    wanted = sa.text(
        "SELECT attrelid::regclass::text, attstorage FROM pg_attribute "
        "WHERE (attrelid, attname) IN (('ingest_log'::regclass, 'values'), "
        "('chunk'::regclass, 'blob')) ORDER BY 1"
    )
    with postgres.database() as url:
        migrate(url)
        with engine_of(url).connect() as connection:
            found = [tuple(row) for row in connection.execute(wanted)]
    assert found == [("chunk", "e"), ("ingest_log", "e")]  # e: EXTERNAL


def test_opening_twice_keeps_what_is_there(empty_database_url):
    first = Store.open(empty_database_url)
    ingest(first, batch(start()))
    first.close()
    again = Store.open(empty_database_url)
    assert again.run("r") is not None
    again.close()


def make_revision_2(url: str) -> None:
    """Give the log the form that it had before revision 0003: steps and times, 8 bytes each."""
    with engine_of(url).begin() as connection:
        rows = connection.execute(sa.text('SELECT pk, header, "values" FROM ingest_log')).all()
        for pk, header, values in rows:
            frame = read_frame(header, values)
            axis = frame.steps.astype("<i8").tobytes() + frame.times.astype("<f8").tobytes()
            change = sa.text("UPDATE ingest_log SET header = :axis WHERE pk = :pk")
            connection.execute(change, {"axis": axis, "pk": pk})
        connection.execute(sa.text("ALTER TABLE ingest_log RENAME COLUMN header TO axis"))
        connection.execute(sa.text("ALTER TABLE source DROP COLUMN records"))
        connection.execute(sa.text("DROP TABLE pruned_keys"))
        connection.execute(sa.text("ALTER TABLE chunk DROP COLUMN segments"))
        for column in ("sealed_bytes", "span_bytes", "thinned_rows"):
            connection.execute(sa.text(f"ALTER TABLE track DROP COLUMN {column}"))
        connection.execute(sa.text("DROP TABLE notification"))
        connection.execute(sa.text("DROP TABLE silence"))
        for column in ("notes", "archived", "edited", "binned_id", "binned_state", "deleted_at"):
            connection.execute(sa.text(f"ALTER TABLE run DROP COLUMN {column}"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0002'"))


def curve_and_history(store: Store) -> tuple[list[object], ...]:
    """Return steps and losses, as a reader and as the rules see them."""
    pk = store.run("r").pk
    curve = store.curves(pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=5000).spans
    seen = store.history(pk).scalar(Scalar.LOSS)
    losses = np.nan_to_num(curve.newest[:, 0], nan=-1)
    return curve.first.tolist(), losses.tolist(), seen.steps.tolist(), seen.values.tolist()


def test_rows_that_an_older_version_has_not_sealed_are_read_and_sealed(empty_database_url):
    records = [scalars("loss"), scalar_frame([0, 1, 2], [3.0, np.inf, 1.0])]
    for i in range(3, 1203):
        # A record between them, so that the frames are not merged.
        records += [Heartbeat(1.0, i), scalar_frame([i], [float(i)])]
    store = Store.open(empty_database_url)
    ingest(store, batch(start(), *records))
    before = curve_and_history(store)
    assert before[0] == before[2] == list(range(1203))
    store.close()
    make_revision_2(empty_database_url)
    store = Store.open(empty_database_url)
    assert curve_and_history(store) == before
    while Compactor(store.database).run_once(everything=True):
        pass
    assert amounts(store).log_rows == 0
    assert curve_and_history(store)[:2] == before[:2]
    store.close()


def test_an_upgrade_that_fails_changes_nothing(empty_database_url):
    store = Store.open(empty_database_url)
    ingest(store, batch(scalars("loss"), scalar_frame([0, 1], [3.0, 2.0])))
    store.close()
    make_revision_2(empty_database_url)
    with engine_of(empty_database_url).begin() as connection:
        connection.execute(sa.text("UPDATE ingest_log SET n = 3"))
    with pytest.raises(struct.error):
        Store.open(empty_database_url)
    with engine_of(empty_database_url).begin() as connection:
        connection.execute(sa.text("SELECT axis FROM ingest_log")).one()
        connection.execute(sa.text("UPDATE ingest_log SET n = 2"))
    store = Store.open(empty_database_url)
    assert curve_and_history(store)[1] == [3.0, 2.0]
    store.close()


def killed_upgrades(url: str, every: int) -> int:
    """Upgrade, killed before each `every`-th statement in turn; return the number of kills."""
    ended = subprocess.run(
        [sys.executable, "-m", "helpers.killed_upgrades", url, str(every)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


EVERY = pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.slow)])


@EVERY
def test_an_upgrade_that_is_killed_anywhere_changes_nothing_and_is_repeated(
    empty_database_url, every
):
    store = Store.open(empty_database_url)
    ingest(store, batch(start(), scalars("loss"), scalar_frame([0, 1], [3.0, 2.0])))
    store.close()
    make_revision_2(empty_database_url)
    assert killed_upgrades(empty_database_url, every) > 30 // every
    store = Store.open(empty_database_url)
    assert curve_and_history(store)[1] == [3.0, 2.0]
    store.close()


@EVERY
def test_a_first_start_that_is_killed_anywhere_leaves_no_table(empty_database_url, every):
    assert killed_upgrades(empty_database_url, every) > 30 // every
    with engine_of(empty_database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_database_of_a_newer_version_is_left_alone(empty_database_url):
    migrate(empty_database_url)
    with engine_of(empty_database_url).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnusable, match="pip install -U trainvitals"):
        Store.open(empty_database_url)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but dear to someone")
    with pytest.raises(StoreUnusable, match="not a SQLite database"):
        Store.open(f"sqlite:///{path}")
    assert path.read_text() == "not a database, but dear to someone"


def test_a_new_file_is_readable_by_its_owner_only(tmp_path):
    Store.open(f"sqlite:///{tmp_path / 'deep' / 'new.db'}").close()
    assert stat.S_IMODE((tmp_path / "deep" / "new.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "nonsense"])
def test_another_kind_of_database_is_refused_in_words(url):
    with pytest.raises(StoreUnusable):
        Store.open(url)
