"""`trainvitals experiment MODULE:FACTORY`: compare choices by short trainings.

The factory takes no arguments and returns (model factory, data), (model factory, data, vary), or a
dict with the arguments of `trainvitals.experiment`. The exit code is 0 with and without a winner.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainvitals.cli.checkup import Factory, call
from trainvitals.cli.report import USAGE, end

if TYPE_CHECKING:
    from trainvitals.experiments import Result

NAMES = ("factory", "data", "vary")
EXPECTED = (
    "It must return (model factory, data[, vary]) or a dict with arguments of "
    "trainvitals.experiment."
)

Vary = Annotated[
    str | None, typer.Option(help="initialisation, loss or learning_rate; default: FACTORY's.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps of each training.")]
Seeds = Annotated[int | None, typer.Option(min=2, help="Number of seeds.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of processes.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate, unless it is compared.")]
Robustness = Annotated[
    bool | None, typer.Option(help="Train again with 10 % of the targets wrong.")
]
Resume = Annotated[Path | None, typer.Option(help="File of finished trainings to continue from.")]
Html = Annotated[Path | None, typer.Option(help="Write the result as an HTML page to this file.")]
Send = Annotated[
    str | None,
    typer.Option(help="Send the result under this name to the collector of the settings."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the rows and the verdict as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("experiment")(command)


def command(
    factory: Factory,
    vary: Vary = None,
    steps: Steps = None,
    seeds: Seeds = None,
    workers: Workers = None,
    learning_rate: Rate = None,
    robustness: Robustness = None,
    resume: Resume = None,
    html: Html = None,
    send: Send = None,
    as_json: Json = False,
) -> None:
    """Train the models of FACTORY with each choice and several seeds, and compare the choices.

    FACTORY returns (model factory, data[, vary]) or a dict with arguments of
    trainvitals.experiment; the options replace them. A collector is needed for --send only.
    """
    options = {
        "vary": vary,
        "steps": steps,
        "seeds": seeds,
        "workers": workers,
        "learning_rate": learning_rate,
        "robustness": robustness,
        "resume": resume,
    }
    if html is not None and not html.resolve().parent.is_dir():
        end(USAGE, f"--html: there is no folder {html.resolve().parent}")
    arguments = _arguments(factory, call(factory))
    result = _result(arguments | {k: v for k, v in options.items() if v is not None})
    if html is not None:
        result.to_html(html)
    if send is not None:
        try:
            result.send(send)
        except ValueError as error:
            end(USAGE, f"--send: {error}")
    typer.echo(_json(result) if as_json else str(result))


def _arguments(factory: str, given: object) -> dict[str, Any]:
    from trainvitals.experiments import experiment

    found: dict[str, Any] = {}
    if isinstance(given, Mapping):
        known = inspect.signature(experiment).parameters
        if unknown := sorted(map(str, set(given) - set(known))):
            end(USAGE, f"{factory} returned unknown names: {', '.join(unknown)}. {EXPECTED}")
        found = dict(given)
    elif isinstance(given, (tuple, list)) and len(given) <= len(NAMES):
        found = dict(zip(NAMES, given, strict=False))
    if not {"factory", "data"} <= found.keys():
        end(USAGE, f"{factory} returned a {type(given).__name__} without them. {EXPECTED}")
    return found


def _result(arguments: dict[str, Any]) -> Result:
    from trainvitals.experiments import experiment

    try:
        return experiment(**arguments)
    except (TypeError, ValueError) as error:
        end(USAGE, str(error))


def _json(result: Result) -> str:
    import msgspec

    shown: dict[str, Any] = msgspec.to_builtins(result)
    del shown["outcomes"]
    return msgspec.json.format(msgspec.json.encode(shown)).decode()
