"""`trainvitals compare A B`: where two runs of a collector differ.

Exit code 0 if the recorded values of both runs agree within rounding, 1 if they differ or cannot be
compared, 2 for wrong usage, 3 if the collector cannot be reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.report import FINDINGS, Json, Url, guarded

if TYPE_CHECKING:
    from trainvitals.comparison import Comparison

RunA = Annotated[str, typer.Argument(metavar="A", help="The first run's name or id.")]
RunB = Annotated[str, typer.Argument(metavar="B", help="The second run's name or id.")]
SHOWN_MAX = 40


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(command)


def command(a: RunA, b: RunB, collector: Url = None, as_json: Json = False) -> None:
    """Show where runs A and B differ: configuration, optimizer, versions, first step and layer.

    Values that agree within float32 rounding count as equal. Exit code 0: equal, 1: different.
    """
    from trainvitals.comparison import compare

    source = collector_of(collector)
    a, b = guarded(lambda: source.id_of(a)), guarded(lambda: source.id_of(b))
    found = guarded(lambda: compare(source, a, b))
    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        _show(found)
    raise typer.Exit(0 if found.is_same else FINDINGS)


def _show(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    from trainvitals.comparison import listed

    console = Console(highlight=False, markup=False)
    table = Table("", found.a, found.b, box=None, padding=(0, 2), header_style="bold")
    table.add_row("verdict", *found.verdicts)
    table.add_row("steps", *(f"{n:,}" for n in found.steps))
    for name, values in list(found.config.items())[:SHOWN_MAX]:
        table.add_row(f"config {name}", *map(_text, values))
    for name, values in list(found.optimizer.items())[:SHOWN_MAX]:
        table.add_row(name, *map(_text, values))
    for name, versions in found.versions.items():
        table.add_row(name, *versions)
    for difference in found.scalars:
        where = f"{difference.place}, first at step {difference.step:,}"
        table.add_row(where, _stored(difference.a), _stored(difference.b))
    if (layer := found.layer) is not None:
        what = f"{layer.stream} {layer.statistic} of {layer.place}"
        table.add_row(f"{what}, first at step {layer.step:,}", _stored(layer.a), _stored(layer.b))
    for i, names in enumerate(found.weights):
        if names:
            cells = ["–", "–"]
            cells[i] = listed(names)
            table.add_row("weights of one run only", *cells)
    console.print(table)
    if found.is_same:
        console.print("The recorded values of both runs do not differ.")
    elif not any(found.steps):
        console.print("Neither run recorded a step.")


def _stored(value: float | None) -> str:
    """Return the shortest text that reads back to the same float32."""
    import numpy as np

    return "–" if value is None else str(np.float32(value))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
