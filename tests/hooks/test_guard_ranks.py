"""`watch(guard=…)` in two ranks: an update is prevented on both or on none, over gloo."""

from __future__ import annotations

import json
import os
from itertools import combinations, product

import pytest

from helpers import guarded_training as program
from helpers.warm_ranks import run_ranks

pytestmark = pytest.mark.timeout(300)

CASES = program.cases()
PREVENTED = [[program.BAD_STEP, "the update was prevented"]]
MADE = [program.BAD_STEP, "the update was made"]


def decided(case):
    """Whether the guard can decide for all ranks together."""
    # With one rank for each replica, each rank has the whole reduced gradients, as with ddp.
    return case.kind in ("ddp", "hsdp21") or (case.kind in ("fsdp", "hsdp12") and bool(case.norm))


def skipped(case):
    """Whether GradScaler sees the fault, which is before it unscales the gradients."""
    return case.precision == program.SCALED and case.fault.startswith("unit")


SKIPPED = [c for c in CASES if skipped(c)]
VETOED = [c for c in CASES if c.fault and c.guard == "veto" and decided(c) and not skipped(c)]
HEALTHY = [c for c in CASES if not c.fault]
UNDECIDED = [c for c in CASES if c.fault and c.guard == "veto" and c not in (*VETOED, *SKIPPED)]
SHARDED = [c for c in UNDECIDED if c.kind != "fsdp1"]


def names(cases):
    return [c.name for c in cases]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return what each rank recorded: case → result."""
    folder = tmp_path_factory.mktemp("guard")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TRAINVITALS_REPORT": "off",
        "TRAINVITALS_HOME": str(folder),
    }
    done = run_ranks(program.__file__, str(folder), cwd=folder, env=environment, timeout_s=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_there_are_enough_cases():
    assert len(VETOED) >= 60
    assert len(HEALTHY) >= 24
    for key in ("kind", "optimizer", "precision", "micro_batches", "fault"):
        assert len({getattr(c, key) for c in VETOED}) > 1


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hsdp21", "hsdp12"])
def test_each_two_values_of_two_fields_meet_in_a_case(kind):
    cases = [c for c in CASES if c.kind == kind and c.optimizer != "zero"]
    for is_scaled in (False, True):
        alike = [
            c
            for c in cases
            if (c.precision == program.SCALED) == is_scaled and c.fault != "late nan"
        ]
        for one, other in combinations(("optimizer", "precision", "micro_batches", "fault"), 2):
            met = {(getattr(c, one), getattr(c, other)) for c in alike}
            firsts, seconds = ({pair[at] for pair in met} for at in (0, 1))
            assert met == set(product(firsts, seconds)), (one, other)


@pytest.mark.parametrize("case", VETOED, ids=names(VETOED))
def test_no_rank_makes_an_update_that_is_not_finite_on_one(ranks, case):
    for found in (rank[case.name] for rank in ranks):
        assert not found["moved"]
        assert found["is_finite"]
        assert found["vetoed"] == 1
        assert found["events"] == PREVENTED
        assert found["safe"]
        assert found["healthy"] == program.STEPS - 1
        assert found["errors"] == "{}"


@pytest.mark.parametrize("case", SKIPPED, ids=names(SKIPPED))
def test_a_step_that_the_scaler_skips_is_skipped_by_all_ranks_and_is_no_veto(ranks, case):
    for found in (rank[case.name] for rank in ranks):
        assert not found["moved"]
        assert found["is_finite"]
        assert found["scale"] == program.SCALE / 2
        assert (found["vetoed"], found["events"]) == (0, [])
        assert found["safe"]
        assert found["errors"] == "{}"


def test_a_late_fault_that_the_scaler_does_not_see_is_prevented_on_all_ranks(ranks):
    late = [c for c in VETOED if c.fault == "late nan"]
    assert {c.kind for c in late} == {"fsdp", "hsdp12"}
    for found in (rank[c.name] for c in late for rank in ranks):
        assert found["scale"] == program.SCALE  # the scaler has seen finite gradients
        assert (found["vetoed"], found["moved"]) == (1, False)


def test_the_replicas_of_ddp_and_hsdp_stay_equal(ranks):
    for case in (c for c in (*VETOED, *SKIPPED) if c.kind in ("ddp", "hsdp21")):
        first, second = (rank[case.name]["weights"] for rank in ranks)
        assert first == second, case.name


@pytest.mark.parametrize("case", HEALTHY, ids=names(HEALTHY))
def test_a_healthy_training_has_no_veto_and_the_same_weights(ranks, case):
    for found in (rank[case.name] for rank in ranks):
        assert found["vetoed"] == 0
        assert found["events"] == []
        assert found["equal"]
        assert found["errors"] == "{}"


def test_stop_ends_all_ranks_at_the_same_step_with_finite_weights(ranks):
    stopped = [c for c in CASES if c.fault and c.guard == "stop" and decided(c)]
    assert {c.kind for c in stopped} == {"ddp", "fsdp"}
    for found in (rank[c.name] for c in stopped for rank in ranks):
        assert found["stopped_at"] == program.BAD_STEP
        assert found["is_finite"]
        assert not found["moved"]


@pytest.mark.parametrize("case", UNDECIDED, ids=names(UNDECIDED))
def test_without_a_norm_of_all_ranks_the_update_is_made_on_each_rank(ranks, case):
    for found in (rank[case.name] for rank in ranks):
        assert found["moved"]
        assert found["vetoed"] == 0
        assert "no norm over all ranks is known: updates are made" in found["reason"]
        assert not found["safe"]
    [first, second] = (rank[case.name] for rank in ranks)
    assert MADE in first["events"]  # the row of the fault is in its shard
    assert first["healthy"] == program.BAD_STEP - 1
    if case in SHARDED:
        assert MADE not in second["events"]


def test_stop_without_a_norm_ends_the_rank_that_has_the_value(ranks):
    [case] = [c for c in CASES if c.fault == "unit nan" and c.guard == "stop" and not decided(c)]
    first, second = (rank[case.name] for rank in ranks)
    assert first["stopped_at"] == program.BAD_STEP
    assert second["stopped_at"] is None
    assert first["moved"]
    assert second["moved"]
    assert not first["safe"]


def test_report_with_a_norm_of_all_ranks_agrees_on_the_last_healthy_step(ranks):
    reported = [c for c in CASES if c.fault and c.guard == "report"]
    assert len(reported) == 2
    for found in (rank[c.name] for c in reported for rank in ranks):
        assert MADE in found["events"]
        assert found["healthy"] == program.BAD_STEP - 1


def test_where_the_guard_can_prevent_it_says_nothing(ranks):
    for case in CASES:
        reasons = [rank[case.name]["reason"] for rank in ranks]
        undecided = case.guard != "report" and not decided(case)
        assert all(bool(reason) == undecided for reason in reasons), case.name
