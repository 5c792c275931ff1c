"""The commands that a document names, and whether the program has them."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer
from typer.main import get_command

from trainvitals.cli.app import app

LANGUAGES = ("", "bash", "sh", "console")
LINE = re.compile(r"(?:^|[|(;&]\s*|\s--\s|srun |-m )(trainvitals(?: .*)?)$")


def commands_in(text: str) -> list[list[str]]:
    """Return the words of each `trainvitals …` in the shell blocks and in the code of sentences."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    lines = [
        line.split(" #")[0]
        for language, block in blocks
        if language in LANGUAGES
        for line in block.replace("\\\n", " ").splitlines()
    ]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\n", " ")
    lines += [code for code in re.findall(r"`([^`]+)`", prose) if code.startswith("trainvitals ")]
    found = (LINE.search(re.sub(r"^(?:\w+=\S+ )+", "", line.strip())) for line in lines)
    return [shlex.split(match[1].split(" | ")[0])[1:] for match in found if match]


def fault_of(words: list[str]) -> str:
    """Return what is wrong with the words after `trainvitals`; "" if the program has them all.

    The options after the program of `run` are its own.
    """
    node: Any = get_command(app)
    context = typer.Context(node)
    names = [word for word in words if word not in {"…", "..."}]
    while names and hasattr(node, "commands") and not names[0].startswith("-"):
        found = node.get_command(context, name := names.pop(0))
        if found is None:
            return f"there is no command {name!r}"
        node = found
    known = {option for p in node.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in names:
        if node.name == "run" and not word.startswith("-") and word.endswith((".py", "…")):
            return ""
        if word.startswith("-") and word != "-" and word.split("=")[0] not in known:
            return f"{node.name!r} has no option {word}"
    return ""
