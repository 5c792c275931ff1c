"""The first report of a process leaves Python's random number generator as it is."""

import subprocess
import sys

import pytest

CHANGED = """
import random
random.seed(0)
before = random.getstate()
import {module}
import rich.console
print(random.getstate() != before)
"""


def changed(module):
    """Import `module` in a new process; return whether Python's generator has drawn a number."""
    command = [sys.executable, "-c", CHANGED.format(module=module)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_the_test_can_fail_because_rich_alone_draws_a_number():
    assert changed("rich.style")


@pytest.mark.parametrize("part", ["card", "status", "checkup"])
def test_a_report_draws_none(part):
    assert not changed(f"trainvitals.report.{part}")
