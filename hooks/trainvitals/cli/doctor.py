"""`trainvitals doctor`: check the installation, the settings and the connection to the collector.

Each check prints a line with a symbol: ✓ passed, ! limited, ✗ failed. The exit code is 1 if a check
failed. With --json the checks are a list.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from trainvitals.api.client import Client, Refused, Unreachable
from trainvitals.cli.collector_of import collector_of
from trainvitals.config import ClientSettings, load

PACKAGES = {"torch": "torch", "fastapi": "server", "streamlit": "dashboard", "psycopg": "postgres"}
"""Package → the extra that installs it."""
GOOD, LESS, WRONG = "✓", "!", "✗"
STATES = {GOOD: "passed", LESS: "limited", WRONG: "failed"}


class Check(NamedTuple):
    """One line of the output."""

    sign: str
    text: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    url: Annotated[str | None, typer.Option("--collector", help="URL of the collector.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check the installation, the settings and the connection to the collector.

    The exit code is 1 if a check failed.
    """
    settings = load(collector=url)
    checks = [*_installed(), *_kernel(), *_token(settings), *_spool(settings)]
    checks += _collector(settings, collector_of(url))
    if as_json:
        typer.echo(
            json.dumps([{"state": STATES[c.sign], "text": c.text} for c in checks], indent=2)
        )
    else:
        typer.echo("\n".join(f"{check.sign} {check.text}" for check in checks))
    raise typer.Exit(1 if any(check.sign == WRONG for check in checks) else 0)


def _installed() -> Iterator[Check]:
    yield Check(GOOD, f"trainvitals {version('trainvitals')}")
    for package, extra in PACKAGES.items():
        try:
            yield Check(GOOD, f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Check(LESS, f"{package} is not installed: pip install 'trainvitals[{extra}]'")


def _kernel() -> Iterator[Check]:
    if find_spec("torch") is None:
        return
    from trainvitals.capture.backends.native import is_available

    if is_available():
        yield Check(GOOD, "native kernel: computes all CPU statistics in one pass")
    else:
        yield Check(
            LESS,
            "no native kernel (its build needs a C compiler): the slower torch implementation is "
            "used",
        )


def _token(settings: ClientSettings) -> Iterator[Check]:
    if settings.token:
        yield Check(GOOD, f"token from {settings.origins['token']}")
        return
    path = settings.token_file
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        path.read_text()
    except FileNotFoundError:
        yield Check(LESS, f"no token file at {path}; `trainvitals up` creates it")
    except (OSError, UnicodeDecodeError) as error:
        yield Check(WRONG, f"the token file {path} cannot be read: {error}")
    else:
        if mode & 0o077:
            yield Check(WRONG, f"other users can read {path} ({mode:o}): chmod 600 {path}")
        else:
            yield Check(GOOD, f"token file {path}, readable only by you")


def _spool(settings: ClientSettings) -> Iterator[Check]:
    waiting, size = _waiting(settings.spool_dir)
    if waiting:
        yield Check(
            LESS,
            f"files with unsent batches in {settings.spool_dir}: {waiting} "
            f"({size / 2**20:.1f} MiB); `trainvitals sync` sends them now, or the next run that "
            "reaches the collector",
        )
    else:
        yield Check(GOOD, f"no unsent batches in {settings.spool_dir}")


def _waiting(folder: Path) -> tuple[int, int]:
    """Return the number of files with unsent batches and their total size in bytes."""
    sizes = []
    for path in folder.rglob("*.segment"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:
            continue  # another process has sent and deleted the file in the meantime
    return len(sizes), sum(sizes)


def _collector(settings: ClientSettings, collector: Client) -> Iterator[Check]:
    if settings.disabled:
        yield Check(
            WRONG,
            f"trainvitals is disabled by the setting `disabled` from "
            f"{settings.origins['disabled']}",
        )
    if not settings.collector or settings.collector == "off":
        yield Check(
            LESS,
            "runs are not sent: no collector is set (TRAINVITALS_COLLECTOR, or watch(collector=…))",
        )
    # Without a setting, the check queries this machine, where a missing collector is not a fault.
    sign = WRONG if settings.collector and settings.collector != "off" else LESS
    try:
        about = collector.version()
    except (Unreachable, Refused) as error:
        yield Check(sign, f"collector {collector.url}: {error}")
        return
    ready = collector.ready()
    state = "ready" if ready else "not ready: it cannot store batches"
    yield Check(
        GOOD if ready else sign,
        f"collector {collector.url}: {about.version} on {about.database}, {state}",
    )
