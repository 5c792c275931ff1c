"""`trainvitals doctor`: what is installed, where data goes, and why none arrives.

Each check is a line with a sign: ✓ good, ! works with less, ✗ wrong. Ends with 1 when something
is wrong.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from trainvitals.api.client import Client, Refused, Unreachable
from trainvitals.cli.collector_of import collector_of
from trainvitals.config import Settings, load

PACKAGES = {"torch": "torch", "fastapi": "server", "streamlit": "dashboard", "psycopg": "postgres"}
"""Package → the extra that brings it."""
GOOD, LESS, WRONG = "✓", "!", "✗"


class Check(NamedTuple):
    """One line of the answer."""

    sign: str
    text: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    url: Annotated[str | None, typer.Option("--collector", help="Its address.")] = None,
) -> None:
    """Say what is installed, where data goes, and what is wrong. Ends with 1 on the latter."""
    settings = load(collector=url)
    checks = [*_installed(), *_kernel(), *_token(settings), *_spool(settings)]
    checks += _collector(settings, collector_of(url))
    for check in checks:
        typer.echo(f"{check.sign} {check.text}")
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
    from trainvitals.capture.kernel import has_native

    if has_native():
        yield Check(GOOD, "native kernel: all statistics in one pass on the CPU")
    else:
        yield Check(
            LESS, "no native kernel (it needs a C compiler at install): a slower way is used"
        )


def _token(settings: Settings) -> Iterator[Check]:
    if settings.token:
        yield Check(GOOD, f"token from {settings.origins['token']}")
        return
    path = settings.token_file
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        path.read_text()
    except FileNotFoundError:
        yield Check(LESS, f"no token file at {path}; `trainvitals up` makes one")
    except (OSError, UnicodeDecodeError) as error:
        yield Check(WRONG, f"the token file {path} cannot be read: {error}")
    else:
        if mode & 0o077:
            yield Check(WRONG, f"{path} can be read by others ({mode:o}): chmod 600 {path}")
        else:
            yield Check(GOOD, f"token file {path}, only you can read it")


def _spool(settings: Settings) -> Iterator[Check]:
    waiting, size = _waiting(settings.spool_dir)
    if waiting:
        yield Check(
            LESS,
            f"{waiting} files ({size / 2**20:.1f} MiB) wait in {settings.spool_dir}; the next run "
            "that reaches the collector sends them",
        )
    else:
        yield Check(GOOD, f"nothing waits in {settings.spool_dir}")


def _waiting(folder: Path) -> tuple[int, int]:
    """Return how many files with batches there are, and their bytes."""
    sizes = []
    for path in folder.rglob("*.segment"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:
            continue  # sent and removed while we looked
    return len(sizes), sum(sizes)


def _collector(settings: Settings, collector: Client) -> Iterator[Check]:
    if settings.disabled:
        yield Check(WRONG, f"watching is off: disabled, from {settings.origins['disabled']}")
    if not settings.collector or settings.collector == "off":
        yield Check(
            LESS,
            "runs stay local: no collector is set (TRAINVITALS_COLLECTOR, or watch(collector=…))",
        )
    # Without a setting the one on this machine is asked; that nobody is there is no fault then.
    sign = WRONG if settings.collector and settings.collector != "off" else LESS
    try:
        about = collector.version()
    except (Unreachable, Refused) as error:
        yield Check(sign, f"collector {collector.url}: {error}")
        return
    ready = collector.ready()
    state = "ready" if ready else "not ready: it cannot store batches now"
    yield Check(
        GOOD if ready else sign,
        f"collector {collector.url}: {about.version} on {about.database}, {state}",
    )
