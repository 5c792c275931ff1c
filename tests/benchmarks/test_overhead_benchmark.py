"""The overhead benchmark counts every step, and gives each figure with its interval."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import overhead_blocks

    return overhead_blocks


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a very short run on the MLP writes."""
    path = tmp_path_factory.mktemp("overhead") / "figures.json"
    short = "--models a --seconds 1 --pairs 2 --block-seconds 0.01 --first-steps 4"
    command = [sys.executable, "overhead.py", *short.split(), "--watch-tensors", "10"]
    subprocess.run([*command, "--json", str(path)], cwd=BENCHMARKS, check=True)
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_a_block_counts_a_step_that_is_costly_once_in_a_while(blocks: ModuleType) -> None:
    class OneSlowStep(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            time.sleep(0.1 if self.calls == 10 else 0)  # steps 0 to 6 are the trainer's own warm-up
            return super().forward(x)

    data = torch.ones(1, 1), torch.zeros(1, dtype=torch.long)
    trainer = blocks.Trainer(blocks.Workload("one slow step", OneSlowStep(1, 1), *data))
    assert trainer.block(5).per_step("wall") >= 0.1 / 5


def test_a_ratio_compares_with_the_plain_blocks_before_and_after(blocks: ModuleType) -> None:
    plain = blocks.Times(10, 1.0, 1.0, 1.0) + blocks.Times(10, 3.0, 3.0, 3.0)
    watched = blocks.Times(10, 2.5, 2.5, 2.0)
    made = blocks.Round(plain, watched, watched, None)
    assert made.ratio("wall") == pytest.approx(2.5 / 2.0)
    assert made.excess_s("process") == pytest.approx(0.5)


def test_the_interval_is_students_t(blocks: ModuleType) -> None:
    made = blocks.interval([1.0, 2.0, 3.0])
    assert made.mean == 2.0
    assert made.half == pytest.approx(4.303 / math.sqrt(3))
    assert math.isnan(blocks.interval([1.0]).half)


@pytest.mark.slow  # a benchmark run of half a minute
def test_the_first_full_steps_have_rows_of_their_own(figures: dict[str, Any]) -> None:
    assert [row["setting"] for row in figures["rows"]] == [
        "every step, all",
        "every step, all, first 16 steps",
        "every step, weights and gradients",
        "every step, weights and gradients, first 16 steps",
        "default after warm-up, step 4 on",
        "default, first 4 steps",
    ]


@pytest.mark.slow  # a benchmark run of half a minute
def test_every_row_has_its_ratios_with_intervals(figures: dict[str, Any]) -> None:
    for row in figures["rows"]:
        for clock in ("wall", "process", "thread"):
            assert row[f"{clock}_ratio"] > 0
            assert row[f"{clock}_ratio_half"] >= 0
        assert row["own_share"] > 0


@pytest.mark.slow  # a benchmark run of half a minute
def test_the_default_is_held_against_its_account(figures: dict[str, Any]) -> None:
    held = [row for row in figures["rows"] if "allowed_s" in row]
    assert len(held) == 2
    assert all(row["allowed_s"] > 0.25 and "process_excess_s" in row for row in held)


@pytest.mark.slow  # a benchmark run of half a minute
def test_the_capture_is_given_in_multiples_of_one_read(figures: dict[str, Any]) -> None:
    [floor] = figures["floors"]
    assert floor["read_once_s"] > 0
    assert floor["multiple"] == pytest.approx(floor["capture_s"] / floor["read_once_s"])
