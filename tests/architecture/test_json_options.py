"""Each command that prints data can print it as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from trainvitals.cli.app import app

WITHOUT = {
    # They run until they are stopped, or run a program.
    "up", "serve", "dashboard", "mcp", "run", "demo",
    # They write a file, or only say on stderr what they have changed.
    "export", "import", "delete", "db backup", "db restore", "db upgrade", "token revoke",
    "runs archive", "runs unarchive", "runs rename", "runs tag", "runs undelete", "runs delete",
    "silence end",
    # They print one word: a token, an id.
    "token create", "silence add",
}  # fmt: skip


def commands(node: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield each command that can be called, with its name."""
    context = typer.Context(node)
    names = node.list_commands(context) if hasattr(node, "commands") else ()
    if words and (not names or node.invoke_without_command):
        yield " ".join(words), node
    for name in names:
        yield from commands(node.get_command(context, name), (*words, name))


def test_each_command_has_the_option_or_a_reason():
    options = {
        name: {option for parameter in node.params for option in parameter.opts}
        for name, node in commands(get_command(app))
    }
    assert len(options) > 25
    assert {name for name, known in options.items() if "--json" not in known} == WITHOUT
