"""The table of docs/scaling.md is what its formulas and a simulation give."""

import math
import re
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from helpers.short_and_slow import parameters
from trainvitals.ship.shipper import INTERVAL_S
from trainvitals_server.settings import Settings
from trainvitals_server.store.migrate import parsed
from trainvitals_server.store.postgres import PostgresDatabase

PAGE = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
NUMBER = r"([\d,.]+)"
ROWS = [
    tuple(float(cell.replace(",", "")) for cell in row)
    for row in re.findall(r"^" + rf"\| {NUMBER} " * 8 + r"\|$", PAGE, re.MULTILINE)
]


def constant(pattern):
    return float(re.search(pattern, PAGE)[1])


def test_the_table_has_rows_up_to_10_000_ranks():
    assert [row[0] for row in ROWS] == [64, 1000, 10_000]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]:g} ranks")
def test_a_row_is_what_the_formulas_give(row):
    ranks, steps_per_s, values_per_step, batches, values, cores, gigabytes, runs = row
    batch_s = constant(rf"batches/s × {NUMBER} ms") / 1000
    values_per_core = constant(rf"values/s ÷ {NUMBER} million") * 1e6
    value_bytes = constant(r"86,400 × ([\d.]+)")
    assert batches == ranks * min(steps_per_s, 1 / INTERVAL_S)
    assert values == ranks * steps_per_s * values_per_step
    assert cores == pytest.approx(batches * batch_s + values / values_per_core, abs=0.05)
    assert gigabytes == pytest.approx(values * 86_400 * value_bytes / 1e9, abs=0.05)
    assert runs == math.ceil(batches * constant(rf"run's row for {NUMBER} ms") / 1000)


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import rank_simulation

    yield rank_simulation
    sys.modules.pop("rank_simulation", None)


def fleet_of(simulation, row, runs):
    """Return the fleet of a row of the table, with the constants of the page."""
    return simulation.Fleet(
        ranks=int(row[0]),
        steps_per_s=row[1],
        values_per_step=row[2],
        runs=int(runs),
        batch_s=constant(rf"batches/s × {NUMBER} ms") / 1000,
        values_per_core_s=constant(rf"values/s ÷ {NUMBER} million") * 1e6,
        locked_s=constant(rf"run's row for {NUMBER} ms") / 1000,
    )


@pytest.mark.parametrize(
    "row", parameters({f"{row[0]:g} ranks": row for row in ROWS}, slow=["10000 ranks"])
)
def test_a_simulation_needs_the_cores_and_the_runs_of_a_row(simulation, row):
    _, _, _, batches, values, cores, _, runs = row
    enough = simulation.Simulation(fleet_of(simulation, row, runs), math.ceil(cores)).run(20)
    assert enough.batches_per_s == pytest.approx(batches, rel=0.05)
    assert enough.values_per_s == pytest.approx(values, rel=0.05)
    assert enough.cores == pytest.approx(cores, rel=0.05)
    assert enough.ack_s_p99 < 1
    if runs > 1:
        fewer = simulation.Simulation(fleet_of(simulation, row, runs - 1), math.ceil(cores)).run(20)
        assert fewer.waiting > enough.waiting + 0.01 * batches * 20


@pytest.mark.slow
def test_with_a_core_less_10_000_ranks_have_a_growing_queue(simulation):
    fleet = fleet_of(simulation, ROWS[-1], 100)
    short, long = (simulation.Simulation(fleet, 33).run(seconds).waiting for seconds in (10, 20))
    assert short > 500
    assert long > 1.5 * short


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_after_an_outage_the_queue_is_empty_within_the_time_of_the_formula(simulation, seed):
    outage_s, cores, [row] = 60, 10, ROWS[1:2]
    assert "seconds ≤ 60 + outage × cores ÷ (cores of the machines − cores)" in PAGE
    most_s = 60 + outage_s * row[5] / (cores - row[5])
    fleet = fleet_of(simulation, row, 2 * row[7])
    found = simulation.Simulation(fleet, cores, seed).run(10 + outage_s + most_s + 10, (10, 70))
    assert outage_s * row[5] / (cores - row[5]) / 2 < found.caught_up_s <= most_s


def test_the_limits_it_names_are_those_of_the_code():
    database = PostgresDatabase(parsed("postgresql://u@127.0.0.1:1/x"), queue_bytes_max=1)
    pool = database._engine.pool
    assert isinstance(pool, sa.pool.QueuePool)
    assert pool.size() + pool._max_overflow == constant(
        rf"at most {NUMBER} connections to Postgres"
    )
    database.close()
    assert Settings().connections_max == constant(rf"answers {NUMBER} requests at once")
