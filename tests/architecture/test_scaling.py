"""The table of docs/scaling.md is what its formulas give; its constants are those of the code."""

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from trainvitals.ship.shipper import INTERVAL_S
from trainvitals_server.settings import Settings
from trainvitals_server.store.migrate import parsed
from trainvitals_server.store.postgres import PostgresDatabase

PAGE = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
NUMBER = r"([\d,.]+)"
ROWS = [
    tuple(float(cell.replace(",", "")) for cell in row)
    for row in re.findall(r"^" + rf"\| {NUMBER} " * 7 + r"\|$", PAGE, re.MULTILINE)
]


def constant(pattern):
    return float(re.search(pattern, PAGE)[1])


def test_the_table_has_rows_up_to_10_000_ranks():
    assert [row[0] for row in ROWS] == [64, 1000, 10_000]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]:g} ranks")
def test_a_row_is_what_the_formulas_give(row):
    ranks, steps_per_s, values_per_step, batches, values, cores, gigabytes = row
    batch_s = constant(rf"batches/s × {NUMBER} ms") / 1000
    values_per_core = constant(rf"values/s ÷ {NUMBER} million") * 1e6
    value_bytes = constant(r"86,400 × ([\d.]+)")
    assert batches == ranks * min(steps_per_s, 1 / INTERVAL_S)
    assert values == ranks * steps_per_s * values_per_step
    assert cores == pytest.approx(batches * batch_s + values / values_per_core, abs=0.05)
    assert gigabytes == pytest.approx(values * 86_400 * value_bytes / 1e9, abs=0.05)


def test_the_limits_it_names_are_those_of_the_code():
    database = PostgresDatabase(parsed("postgresql://u@127.0.0.1:1/x"), queue_bytes_max=1)
    pool = database._engine.pool
    assert isinstance(pool, sa.pool.QueuePool)
    assert pool.size() + pool._max_overflow == constant(
        rf"at most {NUMBER} connections to Postgres"
    )
    database.close()
    assert Settings().connections_max == constant(rf"answers {NUMBER} requests at once")
