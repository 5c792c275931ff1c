"""Format what a checkup measured: initialisers, propagation, the initial loss.

Comes in: a `Checkup`. Goes out: parts of the card for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trainvitals.api.schema import Checkup, Initialiser
from trainvitals.api.wording import initialiser_text, number
from trainvitals.report.text import clean, counted, shortened

LAYERS_SHOWN = 12
NAMES_SHOWN = 3


def checkup_rows(checkup: Checkup) -> Iterator[tuple[str, str]]:
    """Yield label and text of the measurements that fit on a line."""
    if checkup.initial_loss is not None:
        expected = ""
        if checkup.initial_loss.expected is not None:
            formula = clean(checkup.initial_loss.formula)
            expected = f", {number(checkup.initial_loss.expected)} expected ({formula})"
        yield "Loss", f"{number(checkup.initial_loss.seen)} at the start{expected}"
    if checkup.chi is not None:
        fails = ""
        if checkup.depth_of_failure is not None:
            change = "smaller" if checkup.chi < 1 else "larger"
            layers = counted(checkup.depth_of_failure, "layer")
            fails = f"; a thousand times {change} after {layers}"
        yield "Signal", f"χ = {number(checkup.chi)} per layer (1 keeps the signal){fails}"
    if checkup.gradient_chi is not None:
        chi = number(checkup.gradient_chi)
        yield "Gradient", f"χ = {chi} per layer, from the last to the first"
    if checkup.overfit is not None:
        before, after = map(number, checkup.overfit)
        yield "One batch", f"the loss on one batch went from {before} to {after}"
    for at, (name, parameters) in enumerate(_by_initialiser(checkup.initialisers).items()):
        shown = ", ".join(shortened(p, 30) for p in parameters[:NAMES_SHOWN])
        more = f" and {len(parameters) - NAMES_SHOWN} more" if len(parameters) > NAMES_SHOWN else ""
        yield "" if at else "Initial", f"{name}: {shown}{more}"


def propagation_table(checkup: Checkup) -> RenderableType | None:
    """Return a table of at most twelve layers, evenly spaced; None without layers."""
    layers = checkup.propagation
    if not layers:
        return None
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    table.add_row(*(Text(h, "dim") for h in ("layer", "S", "M", "gradient RMS")))
    count = min(len(layers), LAYERS_SHOWN)
    shown = [layers[round(i * (len(layers) - 1) / max(1, count - 1))] for i in range(count)]
    for layer in shown:
        cells = ["–" if c is None else number(c) for c in (layer.S, layer.M, layer.gradient_rms)]
        table.add_row(Text(shortened(layer.layer, 36)), *map(Text, cells))
    return table


def _by_initialiser(found: dict[str, Initialiser]) -> dict[str, list[str]]:
    """Return the name with its parameters → the tensors that have it, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for parameter, initialiser in found.items():
        groups.setdefault(initialiser_text(initialiser), []).append(parameter)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
