"""The statements of the ingest path run on the driver of either database, with one behaviour."""

import pytest
import sqlalchemy as sa

from helpers.batches import batch, ingest, start
from trainvitals_server.store import Store, statements

KEY = {"source_pk": 1, "seq": 7, "crc": 3}


def test_a_row_has_the_selected_columns(store: Store) -> None:
    def read(connection: sa.Connection) -> object:
        return statements.BATCH_CRC.one(connection, {"source_pk": 1, "seq": 7})

    assert store.database.write(read) is None


def test_an_error_of_the_driver_is_the_one_of_sqlalchemy(store: Store) -> None:
    new = statements.new_batch_key(store.database.dialect)
    with pytest.raises(sa.exc.IntegrityError, match="INSERT INTO batch"):  # no such source
        store.database.write(lambda connection: new.one(connection, KEY))


def test_an_error_in_one_exchange_undoes_the_task(store: Store) -> None:
    def write(connection: sa.Connection) -> None:
        with statements.one_exchange(connection):
            statements.NEW_EVENTS.run(
                connection, {"run_pk": 1, "source_pk": 1, "event": b"of no run"}
            )
            statements.UPDATE_RUN.run(connection, {"own_pk": 1, "step": 5})

    with pytest.raises(sa.exc.IntegrityError):
        store.database.write(write)
    with store.database.read() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM event")) == 0


@pytest.mark.parametrize("count", [1, 2, 16, 17, 40])
def test_many_rows_are_inserted_in_their_order(store: Store, count: int) -> None:
    ingest(store, batch(start(), run="run"))
    owner = {"run_pk": 1, "source_pk": 1}
    rows = [{**owner, "event": f"{i} %(event)s VALUES".encode()} for i in range(count)]
    store.database.write(lambda connection: statements.NEW_EVENTS.run(connection, *rows))
    with store.database.read() as connection:
        found = connection.execute(sa.text("SELECT event FROM event ORDER BY pk")).scalars()
        assert list(found) == [row["event"] for row in rows]


def test_several_questions_are_answered_in_their_order(store: Store) -> None:
    ingest(store, batch(start(), run="run"))
    with store.database.read() as connection:
        missing, run = statements.ask(
            connection, (statements.SOURCE, {"key": b"none"}), (statements.RUN, {"id": "run"})
        )
    assert missing is None
    assert (run.id, run.state) == ("run", "running")
