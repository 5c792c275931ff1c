"""The skill for coding agents: its commands, followed on a sick run until it is healthy."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from helpers.collector import running_collector
from helpers.documented import commands_in
from trainvitals.api.schema import Diagnosis, Evidence, Finding, Verdict
from trainvitals.cli import report
from trainvitals.diagnosis.fixes import Moment, parts

SKILL = (Path(__file__).parents[2] / "skills" / "trainvitals" / "SKILL.md").read_text()
SICK = """
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(512, 8)
y = (x[:, 0] > 0).long()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(200):
    rows = torch.randint(len(x), (32,))
    loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
    loss.backward()
    optimizer.step()
"""
UPDATE = "    loss.backward()\n    optimizer.step()\n"


def section(number):
    """Return the text of a numbered section."""
    return re.search(rf"\n## {number}\. .*?(?=\n## )", SKILL, re.DOTALL)[0]


def command(number, verb):
    """Return the words of the first command `verb` in the blocks of a section."""
    return next(words for words in commands_in(section(number)) if words[0] == verb)


def repaired(program, fix):
    """Return the program with the fix at the place that it names."""
    [(place, code)] = parts(fix).items()
    assert place is Moment.UPDATE
    return program.replace(UPDATE, "".join(f"    {line}\n" for line in code.splitlines()))


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Return a function that runs `trainvitals` with the words, beside a collector."""
    folder = tmp_path_factory.mktemp("agent")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRAINVITALS_")}
    with running_collector(folder / "collector") as collector:
        variables = {
            "TRAINVITALS_COLLECTOR": collector.url,
            "TRAINVITALS_TOKEN_FILE": str(collector.token_file),
            "TRAINVITALS_HOME": str(folder / "home"),
        }

        def trainvitals(words):
            return subprocess.run(
                [sys.executable, "-m", "trainvitals", *words],
                cwd=folder,
                env=kept | variables,
                capture_output=True,
                text=True,
                timeout=100,
            )

        trainvitals.folder = folder
        yield trainvitals


@pytest.mark.slow  # that its commands and flags exist is checked in a second
@pytest.mark.timeout(240)
def test_an_agent_that_follows_it_repairs_a_sick_run(shell):
    program = shell.folder / "train.py"
    program.write_text(SICK)
    assert shell(command(2, "run")).returncode == 0

    found = shell(command(3, "check"))
    assert found.returncode == report.FINDINGS, found.stderr
    headline = json.loads(found.stdout)["headline"]
    assert (headline["code"], headline["explained_by"]) == ("TV104", "")
    page = shell(["rules", headline["code"]])
    assert "When it is wrong" in page.stdout

    program.write_text(repaired(SICK, headline["fix"]))
    assert program.read_text() != SICK
    assert shell(command(5, "run")).returncode == 0
    verified = shell(command(5, "check"))
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["verdict"] == "healthy"
    compared = shell(command(5, "compare"))
    assert json.loads(compared.stdout)

    # The commands of the table, on the run that is there now.
    table = SKILL[SKILL.index("## More commands") :]
    for words in commands_in(table):
        if words[0] != "mcp":
            done = shell(words)
            assert done.returncode in (0, report.FINDINGS), (shlex.join(words), done.stderr)
            assert "--json" not in words or json.loads(done.stdout)


def test_the_front_matter_has_a_name_and_a_description():
    head = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", SKILL, re.DOTALL)[1])
    assert head["name"] == "trainvitals"
    assert set(head) == {"name", "description"}
    assert 50 < len(head["description"]) <= 1024


def test_it_names_every_exit_code_and_verdict():
    codes = {int(code) for code in re.findall(r"\n\| (\d) \|", section(3))}
    known = {getattr(report, name) for name in ("FINDINGS", "USAGE", "UNREACHABLE", "TOO_EARLY")}
    assert codes == known | {0, report.BLIND, report.FAILED}
    assert [v.value for v in Verdict if v.value not in section(3)] == []


def test_the_fields_that_it_names_exist():
    named = set(re.findall(r"`(\w+)`", section(3).split("Fields of the JSON:")[1]))
    fields = {f for s in (Diagnosis, Finding, Evidence) for f in s.__struct_fields__}
    assert named - fields == {"open", "resolved"}
    assert msgspec.json.decode(msgspec.json.encode(Diagnosis()))["verdict"] == "too_early"


def test_it_names_every_place_of_a_fix():
    text = " ".join(section(4).split())
    assert [moment for moment in Moment if f"`{moment}`" not in text] == []


def test_it_names_every_tool_of_the_server():
    mcp = pytest.importorskip("trainvitals.cli.mcp", reason="the MCP SDK is in the extra `mcp`")
    tools = re.findall(r"\n\| `(\w+)` \|", SKILL[SKILL.index("## MCP") :])
    assert tools == [tool.__name__ for tool in mcp.tools_for(None)]
