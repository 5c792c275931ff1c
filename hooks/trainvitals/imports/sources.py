"""Recognise a file and open it: an export, TensorBoard's events, or an offline run of W&B.

Comes in: a path. Goes out: an `Opened`: its digest and its pages, which can be read repeatedly.
Start at `opened`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from trainvitals.imports.pages import Page, pages
from trainvitals.imports.rows import READERS, BadFile, Reader

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


def opened(path: Path, form: str) -> Opened:
    """Open a file; `form` is csv, jsonl or parquet, or "" to tell it by the name.

    Raises:
        OSError: it cannot be read.
        BadFile: it is of no known form.
    """
    suffix = f".{form}" if form else path.suffix.lower()
    reader = READERS.get(suffix)
    if reader is None:
        raise BadFile(
            f"{path} is not recognised: the name of an export ends in .csv, .jsonl or .parquet. "
            "--format gives the form of a file with another name."
        )
    state = _state(path)
    return Opened(digest_of(path), partial(_exported, path, reader, state))


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _exported(path: Path, reader: Reader, state: tuple[int, int]) -> Iterator[Page]:
    yield from pages(reader(path))
    if _state(path) != state:
        raise BadFile(f"{path} was changed while it was read.")


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
