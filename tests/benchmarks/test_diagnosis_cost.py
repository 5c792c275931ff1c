"""The benchmark of the diagnosis measures all three parts and holds them against their targets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHORT = (
    "--tensors 20 --collector-tensors 20 --recorded-steps 40 --seconds 1.5 --history-steps 20000 "
    "--stored-steps 20 --repeats 1"
)

pytestmark = pytest.mark.slow  # a benchmark run of a quarter of a minute


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a very short run prints, and the figures that it writes."""
    path = tmp_path_factory.mktemp("diagnosis") / "figures.json"
    command = [sys.executable, "diagnosis_cost.py", *SHORT.split(), "--json", str(path)]
    made = subprocess.run(command, cwd=BENCHMARKS, check=True, capture_output=True, text=True)
    return made.stdout, json.loads(path.read_text())


def test_the_thread_of_the_diagnosis_examines_and_takes_less_than_a_core(run: Any) -> None:
    for engine in run[1]["engine"].values():
        assert engine["examinations"] >= 1
        assert 0 < engine["examinations_share"] < engine["share"] < 1


def test_every_rule_has_a_time(run: Any) -> None:
    from trainvitals.diagnosis.registry import RULES

    times = run[1]["rules_ms"]
    assert {f"{rule.code} {rule.name()}" for rule in RULES} <= set(times)
    assert times["examination"] > 0


def test_the_history_is_measured_at_each_power_of_ten_and_at_the_end(run: Any) -> None:
    sizes = run[1]["history"]
    assert [size["steps"] for size in sizes] == [10_000, 20_000]
    assert all(size["history_mb"] > 0 for size in sizes)


def test_the_parts_of_a_round_add_up_to_it(run: Any) -> None:
    rounds = run[1]["collector"]
    assert len(rounds) == 3
    for ms in rounds.values():
        parts = ms["read"] + ms["examine"] + ms["save"] + ms["other"]
        assert parts == pytest.approx(ms["cpu"])


def test_each_row_with_a_target_says_whether_it_is_held(run: Any) -> None:
    rows = [row for row in run[0].splitlines() if "at most" in row]
    assert len(rows) == 2 + 1 + 2
    assert all(row.endswith((": held |", ": missed |")) for row in rows)
