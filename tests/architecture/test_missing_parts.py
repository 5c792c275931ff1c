"""A test without its real part is skipped with the reason, and fails in CI."""

import pytest

from helpers.require import require


def test_a_missing_part_skips_the_test_with_what_to_install(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("helpers.require.DEBIAN_PACKAGES", {"no-such-tool": "some-package"})
    with pytest.raises(pytest.skip.Exception, match="apt-get install some-package"):
        require("no-such-tool")


def test_in_ci_a_missing_part_is_a_failure(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="not a skip"):
        require("no-such-tool")


def test_a_part_that_is_there_is_named_by_its_path():
    assert require("sh").endswith("/sh")
