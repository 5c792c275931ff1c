"""Recognise a file and open it: an export, TensorBoard's events, or an offline run of W&B.

Comes in: a path. Goes out: an `Opened`: its digest and its pages, which can be read repeatedly.
Start at `opened`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from trainvitals.imports import tensorboard, wandb
from trainvitals.imports.pages import Page, pages
from trainvitals.imports.rows import READERS, BadFile, Reader
from trainvitals.imports.scalars import Scalars

_READ_BYTES: Final = 2**20


@dataclass(frozen=True)
class Opened:
    """What can be imported of a file."""

    digest: str
    """SHA-256 in hexadecimal digits."""
    pages: Callable[[], Iterator[Page]]
    about: dict[str, Any] = field(default_factory=dict)
    """Configuration of the run that the file contains."""
    left_out: dict[str, int] = field(default_factory=dict)
    """What cannot be imported → number."""


def opened(paths: Sequence[Path], form: str, loss: str) -> Opened:
    """Open a file, or the event files of one run.

    `form` is csv, jsonl or parquet, or "" to derive it from the name; `loss` is the name of the
    training loss in a file of another tool.

    Raises:
        OSError: it cannot be read.
        BadFile: it is of no known form.
        NotInstalled: the package that reads it is not installed.
    """
    if not form and all(map(tensorboard.is_events, paths)):
        return _of_scalars(paths, tensorboard.scalars_of(paths, loss), loss, {})
    if len(paths) > 1:
        raise BadFile("Only event files of TensorBoard are read together; give one file.")
    [path] = paths
    if not form and wandb.is_run(path):
        scalars, config = wandb.scalars_of(path, loss)
        return _of_scalars(paths, scalars, loss, config)
    suffix = f".{form}" if form else path.suffix.lower()
    reader = READERS.get(suffix)
    if reader is None:
        raise BadFile(
            f"{path} is not recognised: the name of an export ends in .csv, .jsonl or .parquet, "
            "that of a run of W&B in .wandb, and that of TensorBoard's events contains .tfevents. "
            "--format gives the form of an export with another name."
        )
    state = _state(path)
    return Opened(digest_of([path]), partial(_exported, path, reader, state))


def digest_of(paths: Sequence[Path], words: str = "") -> str:
    """Return the SHA-256 of some files' content and of `words`, in hexadecimal digits."""
    digest = hashlib.sha256(words.encode())
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _of_scalars(
    paths: Sequence[Path], scalars: Scalars, loss: str, config: dict[str, Any]
) -> Opened:
    # Another name of the loss is another content of the run.
    digest = digest_of(paths, loss and f"loss {loss}\x00")
    return Opened(digest, scalars.pages, config, dict(scalars.left_out))


def _exported(path: Path, reader: Reader, state: tuple[int, int]) -> Iterator[Page]:
    yield from pages(reader(path))
    if _state(path) != state:
        raise BadFile(f"{path} was changed while it was read.")


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
