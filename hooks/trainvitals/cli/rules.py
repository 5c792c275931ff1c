"""`trainvitals rules`: list the rules, show their pages, run their examples.

rules                the list
rules TV101          the page of a rule, from its docstring
rules run TV101      the findings of the rule on its sick and on its healthy example
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import typer
from msgspec.structs import replace

from trainvitals.api.schema import Diagnosis
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule
from trainvitals.diagnosis.user_rules import UnusableRule, installed_rules, usable_rules
from trainvitals.report import as_json as to_json
from trainvitals.report import card
from trainvitals.report.curves import curves_of
from trainvitals.report.line import finding_line

FINDINGS, USAGE = 1, 2


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rules")(rules)


def rules(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="[run] [RULE]",
            help="Code or name of a rule, such as TV101 or vanishing_gradient.",
        ),
    ] = None,
    example: Annotated[str | None, typer.Argument(metavar="", hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the rules (also `rules list`), or show the page of one rule with its thresholds.

    `rules run TV101` applies the rule to its sick and to its healthy example and shows what it
    finds; the exit code is 1 if it finds nothing in the first or something in the second.
    """
    if code == "run":
        _run(example, as_json)
        return
    if example is not None:
        typer.echo(f"Unexpected argument {example!r}. Did you mean `rules run {code}`?", err=True)
        raise typer.Exit(USAGE)
    if code in (None, "list"):
        _list(as_json)
        return
    rule = type(_rule(code))
    if as_json:
        typer.echo(json.dumps(_described(rule), indent=2))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(emoji=False).print(Markdown(_markdown(rule)))


def _run(asked: str | None, as_json: bool) -> None:
    if asked is None:
        typer.echo("Name a rule: trainvitals rules run TV101.", err=True)
        raise typer.Exit(USAGE)
    rule = _rule(asked)
    examples = {"sick": rule.sick(), "healthy": rule.healthy()}
    seen = {name: _diagnosed(rule, history, name) for name, history in examples.items()}
    if as_json:
        typer.echo(json.dumps({name: json.loads(to_json(d)) for name, d in seen.items()}, indent=2))
    else:
        for name, diagnosis in seen.items():
            typer.echo(f"{rule.code} {rule.name()} on its {name} example:\n")
            typer.echo(_shown(diagnosis, examples[name]))
    if not seen["sick"].findings or seen["healthy"].findings:
        raise typer.Exit(FINDINGS)


def _diagnosed(rule: Rule, history: History, name: str) -> Diagnosis:
    findings = Engine([rule]).examine(history)
    # An example contains only the data that the rule reads, so other missing data is not reported.
    return replace(diagnose(history, findings, rules=[rule], run=f"{name} example"), blind={})


def _shown(diagnosis: Diagnosis, history: History) -> str:
    if diagnosis.headline is not None:
        return card(diagnosis, curves=curves_of(history, diagnosis))
    lines = [finding_line(finding) for finding in diagnosis.findings] or ["No finding."]
    return "".join(f"{text}\n" for text in lines)


def _list(as_json: bool) -> None:
    for broken in _unusable():
        typer.echo(f"The rule {broken.entry} is not used: {broken.reason}.", err=True)
    pages = [rule.page() for rule in usable_rules()]
    if as_json:
        listed = [{"code": p.code, "rule": p.rule, "summary": p.summary} for p in pages]
        typer.echo(json.dumps(listed, indent=2))
        return
    for page in pages:
        typer.echo(f"{page.code}  {page.rule:<24} {page.summary}")


def _rule(asked: str) -> Rule:
    for rule in usable_rules():
        if asked.lower() in (rule.name(), rule.code.lower()):
            return rule
    codes = ", ".join(rule.code for rule in usable_rules())
    typer.echo(f"There is no rule {asked!r}. Known rules: {codes}.", err=True)
    raise typer.Exit(USAGE)


def _unusable() -> list[UnusableRule]:
    return [rule for rule in installed_rules() if isinstance(rule, UnusableRule)]


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
