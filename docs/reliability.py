"""Write docs/reliability.md: each guarantee, its tests, the last figures, and what no test covers.

Comes in: docs/guarantees.toml and the files of the tests. Goes out: the page.
Promise:  the page names only tests that exist; each figure has its revision and its command.
"""

from __future__ import annotations

import ast
import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
TESTS = DOCS.with_name("tests")
NUMBERS = range(1, 21)


REVISION = re.compile(r"[0-9a-f]{7,40}")


class Incomplete(ValueError):  # noqa: N818 - says what of the table is wrong
    """The table lacks a guarantee, a test that it names, or the origin of a figure."""


def guarantees() -> list[dict[str, Any]]:
    """Return the guarantees R1 to R20: `id`, `promise`, `tests`, perhaps `figures` and `untested`.

    A figure has `result`, `revision` and `command`.

    Raises:
        Incomplete: a guarantee is missing, has neither a test nor a reason, or names a test that
            does not exist; or a figure does not say where it is from.
    """
    found: list[dict[str, Any]] = tomllib.loads((DOCS / "guarantees.toml").read_text())["guarantee"]
    if [each["id"] for each in found] != [f"R{number}" for number in NUMBERS]:
        raise Incomplete("docs/guarantees.toml must have R1 to R20, in this order.")
    for each in found:
        if missing := [test for test in each["tests"] if not exists(test)]:
            raise Incomplete(f"{each['id']} names tests that do not exist: {', '.join(missing)}.")
        if not each["tests"] and not each.get("untested"):
            raise Incomplete(f"{each['id']} has no test, and does not say so.")
        if not all(map(is_traceable, each.get("figures", ()))):
            raise Incomplete(f"{each['id']} has a figure without result, revision or command.")
    return found


def is_traceable(figure: dict[str, str]) -> bool:
    """Whether a figure has a result, a revision and a command whose tests exist."""
    if figure.keys() != {"result", "revision", "command"} or not figure["result"]:
        return False
    tests = re.findall(r"tests/(\S+?\.py)(?:::(\w+))?", figure["command"])
    if not REVISION.fullmatch(figure["revision"]) or not tests:
        return False
    return all(
        exists(f"{path}::{name}") if name else _functions(TESTS / path) for path, name in tests
    )


def exists(test: str) -> bool:
    """Whether PATH::NAME is a test function below tests/."""
    path, _, name = test.partition("::")
    return name.startswith("test_") and name in _functions(TESTS / path)


@lru_cache
def _functions(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(n.name for n in ast.parse(path.read_text()).body if isinstance(n, kinds))


def page() -> str:
    """Return the page as Markdown."""
    parts = [
        "<!-- written by docs/generate.py from docs/guarantees.toml -->",
        "# Guarantees and their tests",
        "",
        "`make test` runs every test below that is not marked slow, `make test-all` every one; "
        "`pytest tests/PATH::NAME` runs one. "
        "What no test covers is named. A figure is the last one that was recorded, of one machine; "
        "where none was recorded, none is given.",
    ]
    for each in guarantees():
        parts += ["", f"## {each['id']} {each['promise']}", ""]
        for test in each["tests"]:
            path, _, name = test.partition("::")
            parts.append(f"- [{name}](../tests/{path})")
        for figure in each.get("figures", ()):
            origin = f"Revision `{figure['revision']}`, `{figure['command']}`."
            parts += ["", f"Measured: {figure['result']} {origin}"]
        if each.get("untested"):
            parts += [*([""] if each["tests"] else []), f"Not tested: {each['untested']}"]
    return "\n".join(parts) + "\n"
