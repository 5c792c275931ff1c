"""`trainvitals sync`: deliver the batches that ended processes left on this machine, now.

Exit code 0 if nothing waits for this collector any more, 1 if the collector rejected records
permanently, 2 for wrong usage, 3 if batches still wait for this collector or a folder cannot be
read.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from trainvitals.cli.report import FINDINGS, UNREACHABLE, USAGE, Url, end
from trainvitals.config import PORT, load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainvitals.ship.adopt import Adoption, Tally

Wait = Annotated[float, typer.Option(min=0, help="Time to retry, in seconds.")]

Json = Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sync")(command)


def command(collector: Url = None, wait: Wait = 10.0, as_json: Json = False) -> None:
    """Deliver the batches of ended processes in the spool folder to their collector.

    Batches are sent only to the collector that their process was configured for. Folders of running
    processes are skipped.
    """
    from trainvitals.ship import parse_url
    from trainvitals.ship.adopt import Adoption
    from trainvitals.ship.shipper import SPOOL_BYTES_MAX
    from trainvitals.ship.spool import left_over

    settings = load(collector=collector)
    configured = settings.collector if settings.collector != "off" else ""
    try:
        address = parse_url(configured or f"http://127.0.0.1:{PORT}")
    except ValueError as error:
        end(USAGE, str(error))
    adoption = Adoption(address, settings.read_token, settings.spool_dir, SPOOL_BYTES_MAX)
    _deliver(adoption, wait)
    tally = adoption.tally
    waiting: Counter[str] = Counter()
    for url, batches in left_over(settings.spool_dir):
        waiting[url] += batches
    if as_json:
        typer.echo(json.dumps(_counts(tally, address.url, waiting), indent=2))
    else:
        typer.echo(
            f"{tally.batches:,} batches with {tally.records:,} records are delivered to "
            f"{address.url}."
        )
    if tally.rejected:
        typer.echo(f"The collector rejected {tally.rejected:,} records permanently.", err=True)
    mine = waiting.pop(address.url, 0)
    for url, batches in sorted(waiting.items()):
        hint = f"; to send them: trainvitals sync --collector {url}" if url else ""
        of = f"for {url}" if url else "without the address of a collector"
        typer.echo(f"{batches:,} batches wait {of}{hint}.", err=True)
    if tally.running:
        typer.echo(f"{tally.running:,} folders belong to running processes.", err=True)
    if tally.failed:
        typer.echo(f"{tally.failed:,} folders in {settings.spool_dir} cannot be read.", err=True)
    if mine:
        reason = f": {tally.reason}" if tally.reason else ""
        end(UNREACHABLE, f"{mine:,} batches still wait for {address.url}{reason}.")
    if tally.failed:
        raise typer.Exit(UNREACHABLE)
    raise typer.Exit(FINDINGS if tally.rejected else 0)


def _counts(tally: Tally, collector: str, waiting: Mapping[str, int]) -> dict[str, object]:
    """Return the counts; `waiting` maps the URL of a collector ("": unknown) to its batches."""
    return {
        "collector": collector,
        "delivered_batches": tally.batches,
        "delivered_records": tally.records,
        "rejected_records": tally.rejected,
        "waiting_batches": dict(waiting),
        "running_folders": tally.running,
        "unreadable_folders": tally.failed,
        "reason": tally.reason,
    }


def _deliver(adoption: Adoption, wait_s: float) -> None:
    """Try every folder; repeat failed ones until `wait_s` seconds have passed."""
    deadline = time.monotonic() + wait_s
    pause_s = adoption.turn()
    while pause_s is not None and time.monotonic() + pause_s < deadline:
        time.sleep(pause_s)
        pause_s = adoption.turn()
