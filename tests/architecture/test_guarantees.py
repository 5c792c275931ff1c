"""Each guarantee in docs/guarantees.toml names tests that exist, or states that it has none."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TESTS_OF_R1 = """\
tests = [
  "server/collect/test_kill_loses_nothing.py::test_kills_of_the_store_lose_and_double_nothing",
  "server/collect/test_kill_loses_nothing.py::test_a_build_that_answers_before_it_commits_is_found",
]
"""


@pytest.fixture
def reliability(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import reliability

    yield reliability
    sys.modules.pop("reliability", None)


def test_every_test_that_a_guarantee_names_exists(reliability):
    found = reliability.guarantees()
    assert len(found) == 20
    assert sum(len(each["tests"]) for each in found) > 40


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("test_noise_is_a_4xx", "test_noise_is_a_5xx", "do not exist"),
        ("server/collect/test_ingest.py::", "server/collect/test_absent.py::", "do not exist"),
        ("::test_noise_is_a_4xx", "::padded", "do not exist"),
        ('id = "R7"', 'id = "R77"', "R1 to R20"),
        (TESTS_OF_R1, "tests = []", "no test"),
        ('revision = "1c026aa"', 'revision = "main"', "R18 has a figure without"),
        ('revision = "1c026aa"\n', "", "R18 has a figure without"),
        ('pytest tests/hooks/ship/test_spool.py"', 'pytest tests/absent.py"', "R5 has a figure"),
    ],
)
def test_a_wrong_table_is_refused(reliability, monkeypatch, tmp_path, old, new, problem):
    table = (DOCS / "guarantees.toml").read_text()
    assert old in table
    (tmp_path / "guarantees.toml").write_text(table.replace(old, new))
    monkeypatch.setattr(reliability, "DOCS", tmp_path)
    with pytest.raises(reliability.Incomplete, match=problem):
        reliability.guarantees()
