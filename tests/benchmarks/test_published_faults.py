"""The published lists are complete, and each of its programs builds and trains."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from detection.bench import bench
from detection.case import Class, Split
from detection.program import Program
from detection.published import HEALTHY, PUBLISHED, Published, parts
from detection.published.register import FIFTH, FIRST, FOURTH, SIXTH, THIRD
from detection.report import text
from detection.train import Outcome, run
from trainvitals.diagnosis.registry import RULES

WITHOUT_A_RULE = {
    "adam_epsilon",
    "constant_prediction",
    "data_order",
    "missing_batchnorm",
    "missing_output_bias",
    "noisy_input",
    "vanishing_activation",
    "wrong_augmentation",
}
SHORT, SHORT_LATER = 3, 8
"""`make test` trains each third faulty program of the first list, and each eighth of the later
lists; the other ones are in `make test-all`."""
SLOW = [pytest.mark.slow]


def is_slow(at: int, number: str) -> bool:
    return at % (SHORT if number[0] in FIRST else SHORT_LATER) > 0


ROLES = [
    pytest.param(number, repaired, marks=SLOW if repaired or is_slow(at, number) else [])
    for at, number in enumerate(PUBLISHED)
    for repaired in (False, True)
]
CALM = [
    pytest.param(number, marks=[] if number[0] in FIRST or not is_slow(at, number) else SLOW)
    for at, number in enumerate(HEALTHY)
]


def list_of(number: str) -> str:
    if number[0] in FIRST:
        return "first"
    if number.startswith(THIRD):
        return "third"
    if number.startswith(FOURTH):
        return "fourth"
    if number.startswith(FIFTH):
        return "fifth"
    return "sixth" if number.startswith(SIXTH) else "second"


def three_steps(case: Published, *, repaired: bool) -> Outcome:
    def short(seed: int, repaired: bool) -> Program:
        program = case.make(seed, repaired)
        program.steps = 3
        return program

    return run(replace(case, make=short), 0, repaired=repaired, every=1)


@pytest.mark.parametrize(("number", "repaired"), ROLES)
def test_a_faulty_program_and_its_repaired_one_train(number, repaired):
    assert not three_steps(PUBLISHED[number], repaired=repaired).error


@pytest.mark.parametrize("number", CALM)
def test_a_healthy_program_trains(number):
    outcome = three_steps(HEALTHY[number], repaired=True)
    assert not outcome.error
    assert outcome.metric < float("inf")


def test_every_case_names_its_source_and_at_least_one_diagnosis():
    faulty, healthy = (Counter(map(list_of, each)) for each in (PUBLISHED, HEALTHY))
    counts = {"first": 74, "second": 96, "third": 57, "fourth": 60, "fifth": 56, "sixth": 60}
    assert faulty == counts
    counts = {"first": 20, "second": 25, "third": 10, "fourth": 16, "fifth": 16, "sixth": 16}
    assert healthy == counts
    for number, case in PUBLISHED.items():
        assert case.name.startswith(f"{number}_")
        assert case.source
        assert case.causes


def test_an_accepted_diagnosis_is_a_rule_or_is_known_to_have_none():
    rules = {rule.name() for rule in RULES}
    named = {cause for case in PUBLISHED.values() for cause in case.causes}
    assert named - rules == WITHOUT_A_RULE


def test_every_class_of_fault_occurs_in_the_lists():
    assert {case.kind for case in PUBLISHED.values()} == {*Class}


def test_only_the_sixth_list_is_held_out():
    for case in [*PUBLISHED.values(), *HEALTHY.values()]:
        number = case.name.partition("_")[0]
        assert (case.base.split == Split.HELD_OUT) == (list_of(number) == "sixth")


def test_names_of_the_list_are_replaced_by_the_rules_that_report_them():
    assert "constant_or_duplicate_input" in PUBLISHED["F136"].causes
    assert "unnormalised_input" in PUBLISHED["F054"].causes
    assert "loss_task_mismatch" in PUBLISHED["F126"].causes
    assert "label_noise" in PUBLISHED["F060"].causes


def test_the_faulty_and_the_repaired_program_share_their_test_samples():
    faulty, _ = PUBLISHED["F092"].build(0)
    repaired, _ = PUBLISHED["F092"].build(0, repaired=True)
    assert torch.equal(faulty.data.x_test, repaired.data.x_test)
    assert len(faulty.data.x) > len(repaired.data.x)


def test_the_bench_runs_published_cases_without_a_second_training():
    result = bench([PUBLISHED["F102"]], [HEALTHY["H14"]], 1, every=8, fixes=False)
    [pair] = result.pairs
    assert (pair.flagged, pair.top1, pair.headline) == (True, True, "symmetric_init at 0.weight")
    assert [outcome.second for outcome in result.outcomes] == [None] * 3
    assert pair.fix is None
    assert "| no fix offered | – |" in text(result)


def test_outputs_that_are_not_finite_are_on_the_wrong_side():
    output, target = torch.tensor([[torch.nan], [3.0]]), torch.tensor([[0.0], [1.0]])
    assert parts.wrong_side(0.0)(output, target) == 0.5


def test_the_balanced_error_weighs_classes_equally():
    output = torch.tensor([[1.0, 0.0]] * 10)
    assert parts.balanced_error(output, torch.tensor([0] * 9 + [1])) == 0.5
