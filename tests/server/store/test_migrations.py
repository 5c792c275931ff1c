"""The tables that migrations build are the tables that the code speaks of."""

import stat

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import make_url

from helpers.batches import batch, ingest, start
from trainvitals_server.store import Store
from trainvitals_server.store.migrate import StoreUnusable, migrate
from trainvitals_server.store.models import Base


def engine_of(url: str) -> sa.Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed, poolclass=sa.pool.NullPool)


def test_migrations_and_models_agree(database_url):
    migrate(database_url)
    with engine_of(database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_opening_twice_keeps_what_is_there(database_url):
    first = Store.open(database_url)
    ingest(first, batch(start()))
    first.close()
    again = Store.open(database_url)
    assert again.run("r") is not None
    again.close()


def test_a_database_of_a_newer_version_is_left_alone(database_url):
    migrate(database_url)
    with engine_of(database_url).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnusable, match="pip install -U trainvitals"):
        Store.open(database_url)


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
