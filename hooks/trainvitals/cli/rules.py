"""`trainvitals rules`: list the rules and show their pages, from the rules' docstrings."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import typer

from trainvitals.diagnosis.registry import all_rules, rule_by_code
from trainvitals.diagnosis.rule import Rule

USAGE = 2


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rules")(rules)


def rules(
    code: Annotated[
        str | None,
        typer.Argument(help="Code or name of a rule, such as TV101 or vanishing_gradient."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the rules, or show the page of one rule with its thresholds."""
    if code is None:
        _list(as_json)
        return
    rule = _rule(code)
    if as_json:
        typer.echo(json.dumps(_described(rule), indent=2))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(emoji=False).print(Markdown(_markdown(rule)))


def _list(as_json: bool) -> None:
    pages = [rule.page() for rule in all_rules()]
    if as_json:
        listed = [{"code": p.code, "rule": p.rule, "summary": p.summary} for p in pages]
        typer.echo(json.dumps(listed, indent=2))
        return
    for page in pages:
        typer.echo(f"{page.code}  {page.rule:<24} {page.summary}")


def _rule(asked: str) -> type[Rule]:
    for rule in all_rules():
        if asked.lower() == rule.name():
            return type(rule)
    try:
        return rule_by_code(asked.upper())
    except KeyError:
        codes = ", ".join(rule.code for rule in all_rules())
        typer.echo(f"There is no rule {asked!r}. Known rules: {codes}.", err=True)
        raise typer.Exit(USAGE) from None


def _described(rule: type[Rule]) -> dict[str, Any]:
    described: dict[str, Any] = msgspec.to_builtins(rule.page())
    return described


def _markdown(rule: type[Rule]) -> str:
    page = rule.page()
    fix = f"```python\n{page.fix}\n```" if page.fix else ""
    sections = [
        ("What it detects", page.what_it_detects),
        ("Why it matters", page.why_it_matters),
        ("Evidence", page.evidence),
        ("What to do", f"{page.what_to_do}\n\n{fix}".rstrip()),
        ("When it is wrong", page.when_it_is_wrong),
        ("What would refute it", rule.refuted_by),
        ("Thresholds", _table(rule)),
        ("References", page.references),
    ]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections if text)
    return f"# {page.code} {page.rule}\n\n{page.summary}\n\n{body}"


def _table(rule: type[Rule]) -> str:
    rows = [f"| {n} | {t.default:g} | {t.meaning} |" for n, t in rule.thresholds().items()]
    return "\n".join(["| name | default | meaning |", "|---|---|---|", *rows]) if rows else ""
