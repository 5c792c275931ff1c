"""Each `trainvitals` command in a document exists, with its options."""

from pathlib import Path

import pytest

from helpers.documented import commands_in, fault_of

pytest.importorskip("mcp", reason="the command `mcp` needs the MCP SDK")

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("skills/*/*.md")),
]
COMMANDS = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)[:70]}")
    for path in DOCUMENTS
    for words in commands_in(path.read_text())
]


@pytest.mark.parametrize("words", COMMANDS)
def test_it_exists(words):
    assert fault_of(words) == ""


def test_many_are_found():
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["chek", "r"], "there is no command 'chek'"),
        (["check", "r", "--fail-at", "error"], "'check' has no option --fail-at"),
        (["token", "make"], "there is no command 'make'"),
    ],
)
def test_a_wrong_one_is_named(words, fault):
    assert fault_of(words) == fault
