"""The planted bad sample is the first that a replay names."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("TRAINVITALS_REPORT", "off")
    import planted_rows

    yield planted_rows
    sys.modules.pop("planted_rows", None)


@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_in_each_model_and_fault_it_is_first_and_the_loss_is_reproduced(planted, seeds):
    cases = planted.cases(seeds)
    found = [planted.first_named(c, per_sample=at % 2 == 0) for at, c in enumerate(cases)]
    assert len(cases) == 20 * seeds
    assert sum(is_first for is_first, _ in found) >= 19 * seeds
    assert all(is_reproduced for _, is_reproduced in found)


def test_a_sample_that_is_not_planted_is_not_first(planted):
    case = planted.Case("mlp", "label", 0)
    other = planted.Case("mlp", "label", 1)
    assert case.index != other.index
    assert planted.first_named(case, per_sample=True) == (True, True)
