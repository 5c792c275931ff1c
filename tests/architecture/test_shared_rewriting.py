"""Parallel workers rewrite the assertions of the tests once together, not once each."""

from __future__ import annotations

import sys

import pytest

from helpers.rewriting import rewrite_a_share

NAMES = ["test_a", "test_b", "test_c"]


@pytest.fixture
def stored(tmp_path, monkeypatch, pytestconfig):
    """Return a function: the files that are stored after a worker, 0 or 1, rewrote its share."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("def test_it():\n    assert 1 + 1 == 3\n")

    def after(worker):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{worker}")
        rewrite_a_share(pytestconfig, tmp_path)
        return {path.name.split(".")[0]: path for path in tmp_path.glob("__pycache__/*")}

    return after


def test_each_file_is_the_share_of_one_worker(stored):
    assert set(stored(worker=0)) == {"test_a", "test_c"}
    assert set(stored(worker=1)) == set(NAMES)


def test_what_is_stored_is_rewritten(stored):
    assert all(b"@pytest_ar" in path.read_bytes() for path in stored(worker=0).values())


def test_what_is_stored_already_is_left_alone(stored):
    before = {path: path.stat().st_ino for path in stored(worker=0).values()}
    assert {path: path.stat().st_ino for path in stored(worker=0).values()} == before
