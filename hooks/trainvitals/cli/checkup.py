"""`trainvitals checkup MODULE:FACTORY`: check a model before its training.

The factory takes no arguments and returns (model, batch), (model, batch, loss), (model, batch,
loss, optimizer), or a dict with these names. The exit code states the verdict, as for `check`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainvitals.cli.report import (
    USAGE,
    Fail,
    FailOn,
    Html,
    Json,
    Quiet,
    end,
    exit_code,
    show_json,
    terminal_width,
    write_page,
)

if TYPE_CHECKING:
    from trainvitals.api.schema import Diagnosis

NAMES = ("model", "batch", "loss", "optimizer")
EXPECTED = "It must return (model, batch[, loss[, optimizer]]) or a dict with these names."

Factory = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FACTORY",
        help="A function in a module (package.module) or in a file (train.py).",
    ),
]
Overfit = Annotated[
    int, typer.Option(min=0, help="Steps of the attempt to fit one batch; 0: no attempt.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("checkup")(command)


def command(
    factory: Factory,
    overfit: Overfit = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    fail_on: Fail = FailOn.WARNING,
    html: Html = "",
) -> None:
    """Check the model that FACTORY returns: initialisation, propagation, loss, targets, optimizer.

    FACTORY returns (model, batch[, loss[, optimizer]]) or a dict with these names. Nothing is
    trained; no collector is needed.
    """
    diagnosis = _diagnosis(_arguments(factory, call(factory)), overfit)
    if html:
        write_page(html, diagnosis, name=factory, quiet=quiet)
    if as_json:
        show_json(diagnosis, quiet)
    elif not quiet:
        from trainvitals.report import card

        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        typer.echo(card(diagnosis, colour=colour, width=min(100, terminal_width())), nl=False)
    raise typer.Exit(exit_code(diagnosis, fail_on))


def call(factory: str) -> object:
    """Return the result of MODULE:FACTORY; exit with a message if it cannot be called."""
    where, colon, name = factory.rpartition(":")
    if not colon or not where or not name:
        end(USAGE, f"{factory!r} is not MODULE:FACTORY, for example train:build or train.py:build.")
    try:
        module = _module(where)
    except Exception as error:  # noqa: BLE001 - the user's module can raise anything
        end(USAGE, f"{where} cannot be imported: {type(error).__name__}: {error}")
    made = getattr(module, name, None)
    if not callable(made):
        end(USAGE, f"{where} has no function {name}.")
    try:
        result: object = made()
    except Exception as error:  # noqa: BLE001 - the user's function can raise anything
        end(USAGE, f"{factory} failed: {type(error).__name__}: {error}")
    return result


def _module(where: str) -> Any:
    path = Path(where)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _arguments(factory: str, given: object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(given, Mapping):
        if unknown := sorted(map(str, set(given) - set(NAMES))):
            end(USAGE, f"{factory} returned unknown names: {', '.join(unknown)}. {EXPECTED}")
        found = dict(given)
    elif isinstance(given, (tuple, list)) and len(given) <= len(NAMES):
        found = dict(zip(NAMES, given, strict=False))
    if not {"model", "batch"} <= found.keys():
        end(USAGE, f"{factory} returned a {type(given).__name__} without them. {EXPECTED}")
    return found


def _diagnosis(arguments: dict[str, Any], overfit: int) -> Diagnosis:
    from trainvitals.checkups import checkup

    try:
        return checkup(**arguments, overfit_steps=overfit)
    except (TypeError, ValueError) as error:
        end(USAGE, str(error))
