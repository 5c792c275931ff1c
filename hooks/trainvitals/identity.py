"""The identity of a run: its id, and facts about its process."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import socket
import sys
import time
from importlib import metadata
from pathlib import Path

from trainvitals.wire import RunStart
from trainvitals.wire.sanitise import configuration, sanitised

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_run_id() -> str:
    """Return a ULID: 48 bits of milliseconds, 80 random bits; ids sort by their start.

    Source: the ULID specification, https://github.com/ulid/spec. `secrets` uses random bits of the
    operating system, so the training's random states do not change.
    """
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def readable_name(run: str) -> str:
    """Return a name of two words and a number for a run's id: `calm-otter-17`.

    The same id always has the same name. Of 409,600 names, two among 100 runs are equal with a
    probability of 1.2 %: the name is for display, the id identifies the run.
    """
    digest = hashlib.blake2b(run.encode(errors="replace"), digest_size=8).digest()
    number = int.from_bytes(digest)
    number, adjective = divmod(number, len(_ADJECTIVES))
    number, animal = divmod(number, len(_ANIMALS))
    return f"{_ADJECTIVES[adjective]}-{_ANIMALS[animal]}-{number % 100}"


_ADJECTIVES = (
    *("agile", "amber", "azure", "bold", "brave", "bright", "brisk", "broad", "calm", "clear"),
    *("clever", "cool", "cosy", "crisp", "deep", "eager", "early", "fair", "fast", "fine"),
    *("firm", "fond", "fresh", "gentle", "glad", "golden", "good", "grand", "green", "happy"),
    *("honest", "keen", "kind", "large", "light", "lively", "loyal", "lucky", "merry", "mild"),
    *("modest", "neat", "new", "noble", "open", "patient", "polite", "proud", "quick", "quiet"),
    *("rapid", "round", "sharp", "silver", "simple", "smart", "smooth", "soft", "solid", "steady"),
    *("sunny", "swift", "warm", "wise"),
)
_ANIMALS = (
    *("badger", "beaver", "bison", "camel", "cat", "crane", "deer", "dolphin", "dove", "duck"),
    *("eagle", "elk", "falcon", "ferret", "finch", "fox", "frog", "gecko", "goose", "hare"),
    *("hawk", "hedgehog", "heron", "horse", "ibex", "jay", "kiwi", "koala", "lark", "lemur"),
    *("lion", "llama", "lynx", "magpie", "marten", "mole", "moose", "newt", "orca", "otter"),
    *("owl", "panda", "panther", "penguin", "pigeon", "pony", "puffin", "quail", "rabbit"),
    *("raven", "robin", "salmon", "seal", "sheep", "sparrow", "squirrel", "stork", "swan"),
    *("tapir", "tiger", "trout", "turtle", "walrus", "whale"),
)


def run_start(
    *,
    name: str,
    config: object,
    tags: tuple[str, ...],
    total_steps: int | None,
    facts: dict[str, str | float],
) -> RunStart:
    """Return the first record of this process."""
    start = RunStart(
        started_at=time.time(),
        name=name,
        config=configuration(config),
        tags=tags,
        host=socket.gethostname(),
        pid=os.getpid(),
        argv=tuple(sys.argv),
        versions=_versions(),
        git_commit=git_commit(Path()),
        total_steps=total_steps,
        facts=facts,
    )
    clean = sanitised(start)
    assert isinstance(clean, RunStart)  # noqa: S101 - sanitised keeps the type; for mypy
    return clean


def git_commit(folder: Path) -> str:
    """Return the checked-out commit of the repository that contains `folder`; "" if there is none.

    Reads git's files, because starting a git process takes longer.
    """
    try:
        folder = folder.absolute()
        for parent in (folder, *folder.parents):
            git = parent / ".git"
            if not git.is_dir():
                continue
            head = (git / "HEAD").read_text().strip()
            if not head.startswith("ref: "):
                return head
            reference = head.removeprefix("ref: ")
            if (git / reference).is_file():
                return (git / reference).read_text().strip()
            packed = (git / "packed-refs").read_text().splitlines()
            return next((x.split()[0] for x in packed if x.endswith(f" {reference}")), "")
    except (OSError, ValueError):  # ValueError: a file that is not UTF-8
        return ""
    return ""


def rank() -> int:
    """Return this process's rank from torchrun, otherwise 0."""
    return _rank("RANK")


def local_rank() -> int:
    """Return this process's rank among those of its machine from torchrun, otherwise 0."""
    return _rank("LOCAL_RANK")


def _rank(variable: str) -> int:
    value = os.environ.get(variable, "0")
    return int(value) if value.isdecimal() and len(value) < 10 else 0


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("torch", "trainvitals", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # a source tree that was never installed
    return versions
