"""An acknowledgement names the durability of its batch, which is a setting."""

import pytest
import sqlalchemy as sa

from helpers.batches import batch, start
from helpers.collector import running_collector
from trainvitals_server.settings import Settings

NORMAL, FULL = 1, 2


@pytest.mark.parametrize(("durability", "level"), [("full", FULL), ("fast", NORMAL)])
def test_it_is_named_in_each_acknowledgement_and_set_for_the_writer(tmp_path, durability, level):
    with running_collector(tmp_path, durability=durability) as collector:
        first, repeated = collector.send(batch(start())), collector.send(batch(start()))
        read = sa.text("PRAGMA synchronous")
        used = collector.store.database.write(lambda connection: connection.scalar(read))
    assert [answer.json()["durability"] for answer in (first, repeated)] == [durability] * 2
    assert used == level


def test_without_the_setting_it_is_full(tmp_path):
    assert Settings(home=tmp_path).durability == "full"


def test_fast_is_refused_for_postgres_and_the_message_says_why():
    with pytest.raises(ValueError, match="only for SQLite"):
        Settings(durability="fast", database_url="postgresql://u@localhost/x")
