"""The program of each framework's page runs with its command, and its run is diagnosed."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.watching import own_home  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.timeout(300),
    pytest.mark.slow,  # a minute and a half; each integration has tests of its own
]

ROOT = Path(__file__).parents[3]
OVERVIEW = (ROOT / "docs" / "frameworks.md").read_text()
PROGRAMS = {
    page.stem: program
    for page in sorted((ROOT / "docs" / "frameworks").glob("*.md"))
    for program in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
}
MODULES = {
    "accelerate": "accelerate.commands.accelerate_cli",
    "torchrun": "torch.distributed.run",
}
"""Commands that are installed beside the interpreter, and their modules."""
BLIND = {"plain-loop"}


def command_of(program):
    """Return the arguments of this interpreter, and the variables, of the program's first line."""
    words = shlex.split(program.splitlines()[0].removeprefix("# "))
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    name, *arguments = [word for word in words if "=" not in word]
    return (arguments if name == "python" else ["-m", MODULES[name], *arguments]), variables


def needs(program):
    """Return the packages that a program imports and that are not installed."""
    names = re.findall(r"^(?:from|import) (\w+)", program, re.MULTILINE)
    return [name for name in dict.fromkeys(names) if importlib.util.find_spec(name) is None]


def test_there_is_a_page_for_each_integration():
    folder = ROOT / "hooks" / "trainvitals" / "integrations"
    offered = {p.stem for p in folder.glob("*.py") if "class Trainvitals" in p.read_text()}
    shown = set(re.findall(r"integrations\.(\w+) import", "".join(PROGRAMS.values())))
    assert shown == offered
    assert len(PROGRAMS) == len(offered) + 6
    linked = re.findall(r"\(frameworks/([\w-]+)\.md\)", OVERVIEW)
    assert sorted(linked) == sorted(PROGRAMS)


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_program_runs_and_is_diagnosed(page, tmp_path):
    program = PROGRAMS[page]
    if missing := needs(program):
        pytest.skip(f"not installed: {', '.join(missing)}")
    arguments, variables = command_of(program)
    (tmp_path / "train.py").write_text(program)
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | variables | {"TRAINVITALS_REPORT": "line", "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"trainvitals: run \S+: (\w+)", done.stdout + done.stderr)[1] == (
        "blind" if page in BLIND else "healthy"
    )
