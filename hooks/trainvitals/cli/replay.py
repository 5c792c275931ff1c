"""`trainvitals replay BUNDLE MODULE:FACTORY`: run a recorded step again, sample by sample.

The factory takes no arguments and returns (model, optimizer, loss, data) or a dict with these
names. Exit code 0: the samples are shown; 2: the step cannot be replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainvitals.cli.checkup import Factory, call
from trainvitals.cli.report import USAGE, Json, end

if TYPE_CHECKING:
    from trainvitals.replay import Replay

NAMES = ("model", "optimizer", "loss", "data")
EXPECTED = "It must return (model, optimizer, loss, data) or a dict with these names."

File = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A file of the flight recorder.")]
Step = Annotated[int | None, typer.Option(help="Replay a step other than the one in the file.")]
Top = Annotated[int, typer.Option(min=1, help="Number of samples to show.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay")(command)


def command(
    file: File, factory: Factory, step: Step = None, top: Top = 10, as_json: Json = False
) -> None:
    """Run the step of BUNDLE again and show its samples, the worst first.

    FACTORY returns (model, optimizer, loss, data) or a dict with these names; data is a dataset, a
    DataLoader, or a function that returns the batch for sample indices. optimizer and loss can be
    None.
    """
    import torch

    from trainvitals.recorder.bundle import BundleError, read
    from trainvitals.replay import ReplayError, replay

    try:
        bundle = read(file)
    except (OSError, BundleError) as error:
        end(USAGE, str(error))
    made = arguments(factory, call(factory))
    if not isinstance(made["model"], torch.nn.Module):
        end(USAGE, f"{factory}: model is a {type(made['model']).__name__}, not a torch.nn.Module.")
    try:
        found = replay(bundle, step=step, **made)
    except ReplayError as error:
        end(USAGE, str(error))
    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        show(found, top)


def arguments(factory: str, given: object) -> dict[str, Any]:
    """Return the factory's result by name; exit with a message if it has another form."""
    if isinstance(given, Mapping):
        found = dict(given)
    elif isinstance(given, (tuple, list)) and len(given) == len(NAMES):
        found = dict(zip(NAMES, given, strict=True))
    else:
        end(USAGE, f"{factory} returned a {type(given).__name__}. {EXPECTED}")
    if set(found) - set(NAMES) or not {"model", "data"} <= set(found):
        end(USAGE, f"{factory} returned {', '.join(map(str, found))}. {EXPECTED}")
    return {name: found.get(name) for name in NAMES}


def _not_reproduced(found: Replay) -> str:
    if found.recorded_loss is None and found.replayed_loss is None:
        # Their means are both NaN; the losses per sample tell them apart.
        return "The recorded losses of the samples that are finite were not reproduced."
    values = f"recorded {_number(found.recorded_loss)}, replayed {_number(found.replayed_loss)}"
    return f"The recorded loss was not reproduced: {values}."


def show(found: Replay, top: int) -> None:
    """Print the result: the replayed step, whether its loss was reproduced, and the samples."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(
        f"Step {found.step} of run {found.run}, with the weights of {found.weights}.",
        soft_wrap=True,
    )
    console.print(
        {
            True: "The recorded loss was reproduced.",
            False: _not_reproduced(found),
            None: "No loss was recorded for this step that could be compared.",
        }[found.is_reproduced],
        soft_wrap=True,
    )
    for note in found.notes:
        console.print(f"Note: {note}.", soft_wrap=True)
    names = ("sample", "row", "loss", "gradient norm", "input RMS", "worst by")
    table = Table(*names, box=None, padding=(0, 2), header_style="bold")
    for sample in found.samples[:top]:
        values = (sample.loss, sample.gradient_norm, sample.input_rms)
        why = f"{sample.share:.0%} of {sample.reason.replace('_', ' ')}"
        if sample.nonfinite_in:
            why = f"not finite in {sample.nonfinite_in}"
        table.add_row(str(sample.index), str(sample.row), *map(_number, values), why)
    console.print(table)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
