"""Keep batches on disk until they are delivered: one folder per source, append-only segments.

Comes in: encoded batches. Goes out: the same batches, oldest first.
Promise:  bounded in bytes, including rejected batches, and by the disk's free space; `lost` counts
          records lost on disk; only OSError and SpoolFull are raised. Not thread-safe; the caller
          holds the lock.
Start at `Spool`; segments.py defines the file format. A folder contains `owner.json` with the
collector and the run, `lock`, which the owner locks, the batches in `00000000.segment` …, and
`rejected/` with the batches that the collector rejected permanently.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from trainvitals.ship.segments import SALT_BYTES, Spooled, frame_of, frames_of

SEGMENT_BYTES_MAX: Final = 4 * 2**20
FREE_SHARE: Final = 0.02
"""Share of the disk's free space that a spool may use: the training's checkpoints need the rest."""
REJECTED_SHARE: Final = 8
"""Rejected batches may use 1/REJECTED_SHARE of the spool's limit."""
_SEGMENT: Final = re.compile(r"\d{8,12}\.segment")
_SOURCE: Final = re.compile(r"[0-9a-f]{32}")


class SpoolFull(Exception):  # noqa: N818 - a state, not an error
    """The batch would exceed the spool's limit."""


@dataclass(frozen=True)
class Owner:
    """The collector, run and project of a spool's batches."""

    url: str
    run: str
    project: str


class Spool:
    """The folder of one source, locked by its owner; oldest batch first.

    The batches are read segment by segment: `first` returns the oldest, `done` removes it. After a
    crash between sending and `done`, a batch is sent twice; the collector counts it once.
    """

    def __init__(self, folder: Path, bytes_max: int, owner: Owner | None, lock: int) -> None:
        """Use `create` or `adopt`: `lock` is a descriptor that holds the folder's lock."""
        self.folder = folder
        self.bytes_max = bytes_max
        self.owner = owner
        self.lost = 0
        """Number of records in batches that are missing on disk or cannot be read."""
        self._lock = lock
        # Raw descriptors: in a forked child, the garbage collection of a file object could close a
        # descriptor that belongs to a file of the user by then.
        self._writing = -1
        self._number = -1
        self._written = 0
        self._salt = b""
        self._read: list[Spooled] = []
        self._reading: Path | None = None
        self._unreadable: set[Path] = set()
        self._records: dict[Path, int] = {}
        """Records in each segment that this process wrote."""

    @classmethod
    def create(cls, spool_dir: Path, source: bytes, bytes_max: int, owner: Owner) -> Spool:
        """Create the folder of `source`. Raises OSError."""
        spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Lock before the rename, so that no process takes it for the folder of an ended process.
        new = spool_dir / f".new-{source.hex()}-{secrets.token_hex(4)}"
        new.mkdir(mode=0o700)
        lock = -1
        try:
            lock = _locked(new)
            (new / "owner.json").write_text(json.dumps(asdict(owner)))
            folder = spool_dir / source.hex()
            new.rename(folder)
        except BaseException:
            if lock >= 0:
                os.close(lock)
            shutil.rmtree(new, ignore_errors=True)
            raise
        return cls(folder, bytes_max, owner, lock)

    @classmethod
    def adopt(cls, folder: Path, bytes_max: int) -> Spool:
        """Open the folder of a process that has ended.

        Raises:
            BlockingIOError: its owner is running.
            OSError: it cannot be opened.
        """
        lock = _locked(folder)
        return cls(folder, bytes_max, _owner_of(folder), lock)

    def append(self, batch: Spooled) -> None:
        """Write a batch at the end. Raises SpoolFull, or OSError for a write error."""
        if not self.folder.is_dir():
            self._recreate()
        frame_bytes = len(batch.payload) + 64
        limit = self.limit()
        if self.size() + frame_bytes > limit:
            raise SpoolFull(f"the spool in {self.folder} has reached {limit} bytes")
        descriptor = self._segment()
        frame = memoryview(frame_of(batch, self._salt))
        try:
            at = 0
            while at < len(frame):
                at += os.write(descriptor, frame[at:])
        except OSError:
            self._undo()
            raise
        self._written += len(frame)
        path = self._path(self._number)
        self._records[path] = self._records.get(path, 0) + batch.records

    def first(self) -> Spooled | None:
        """Return the oldest batch; None if the spool is empty. Unreadable segments are skipped."""
        while not self._read:
            path = self._next_segment()
            if path is None:
                return None
            if path == self._path(self._number):
                self._end_segment()
            try:
                self._read = frames_of(path.read_bytes())
                self._reading = path
            except FileNotFoundError:
                pass  # counted by _next_segment
            except OSError:
                self._unreadable.add(path)
                self.lost += self._records.pop(path, 0)
                continue
            known = self._records.pop(path, 0)
            self.lost += max(0, known - sum(batch.records for batch in self._read))
            if not self._read:
                self._remove(path)
        return self._read[0]

    def done(self) -> None:
        """Remove the batch that `first` returned."""
        self._read.pop(0)
        if not self._read and self._reading is not None:
            self._remove(self._reading)
            self._reading = None

    def replace(self, parts: list[Spooled]) -> None:
        """Replace the batch that `first` returned by `parts`.

        The whole segment is replaced, so that after a crash either the batch or its parts exist.
        Raises nothing: after a write error, the batch is replaced only in memory.
        """
        self._read[:1] = parts
        if self._reading is None:
            return
        salt = secrets.token_bytes(SALT_BYTES)
        new = self._reading.with_suffix(".new")
        try:
            new.write_bytes(b"".join(frame_of(batch, salt) for batch in self._read))
            new.replace(self._reading)
        except OSError:
            self._remove(new)

    def reject(self, batch: Spooled) -> None:
        """Keep a batch that the collector rejected permanently, if there is space for it."""
        folder = self.folder / "rejected"
        kept = sum(map(_size, _files(folder)))
        if kept + len(batch.payload) > self.limit() // REJECTED_SHARE:
            return
        folder.mkdir(exist_ok=True, mode=0o700)
        (folder / f"{batch.seq:016d}.batch").write_bytes(batch.payload)

    def size(self) -> int:
        """Return the bytes on disk, including rejected batches."""
        return sum(map(_size, [*self._segments(), *_files(self.folder / "rejected")]))

    def limit(self) -> int:
        """Return the bytes that it may use now: fewer than `bytes_max` on a disk with little space.

        Where the free space cannot be read, `bytes_max` alone applies.
        """
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            return self.bytes_max
        return min(self.bytes_max, int(FREE_SHARE * (free + self.size())))

    def used(self) -> float:
        """Return the used share of the limit; more than 1 if the disk was filled since."""
        return self.size() / max(1, self.limit())

    def close(self) -> None:
        """Release the folder; remove it if it contains no batches. Raises nothing."""
        self._end_segment()
        if not self._segments() and not _files(self.folder / "rejected"):
            for name in ("owner.json", "lock"):
                self._remove(self.folder / name)
            with suppress(OSError):  # it is not empty, or was removed
                self.folder.rmdir()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def forget(self) -> None:
        """Close the descriptors in a forked child; the parent keeps the lock."""
        for descriptor in (self._writing, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._writing = self._lock = -1

    def _next_segment(self) -> Path | None:
        segments = self._segments()
        there = set(segments)
        for path in [path for path in self._records if path not in there]:
            # The file was removed by someone else: its records are lost.
            self.lost += self._records.pop(path)
        return next((path for path in segments if path not in self._unreadable), None)

    def _segments(self) -> list[Path]:
        return [path for path in _files(self.folder) if _SEGMENT.fullmatch(path.name)]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.segment"

    def _segment(self) -> int:
        """Return the current segment's descriptor; begin a new one if it is full or removed."""
        if self._writing >= 0 and (
            self._written > SEGMENT_BYTES_MAX or os.fstat(self._writing).st_nlink == 0
        ):
            self._end_segment()
        if self._writing < 0:
            newest = max((int(path.stem) for path in self._segments()), default=-1)
            self._number = max(newest, self._number) + 1
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._writing = os.open(self._path(self._number), flags, 0o600)
            self._written = 0
            self._salt = secrets.token_bytes(SALT_BYTES)
        return self._writing

    def _undo(self) -> None:
        """Remove the bytes of a failed write, and end the segment."""
        if self._written == 0:
            self._remove(self._path(self._number))
        else:
            with suppress(OSError):  # reading ignores an incomplete frame
                os.ftruncate(self._writing, self._written)
        self._end_segment()

    def _end_segment(self) -> None:
        descriptor, self._writing = self._writing, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _recreate(self) -> None:
        """Create the folder again after it was removed."""
        self._end_segment()
        if self.owner is None:
            raise FileNotFoundError(f"the spool's folder {self.folder} was removed")
        source = bytes.fromhex(self.folder.name)
        again = Spool.create(self.folder.parent, source, self.bytes_max, self.owner)
        lock, self._lock = self._lock, again._lock
        if lock >= 0:
            os.close(lock)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            self._unreadable.add(path)  # otherwise it would be sent repeatedly


def folders(spool_dir: Path) -> list[Path]:
    """Return the folders of all sources in `spool_dir`. Raises nothing."""
    try:
        return sorted(
            path for path in spool_dir.iterdir() if _SOURCE.fullmatch(path.name) and path.is_dir()
        )
    except OSError:
        return []


def left_over(spool_dir: Path) -> list[tuple[str, int]]:
    """Return (URL of the collector, waiting batches) of each folder with batches; "": no URL.

    Folders of running processes, and what cannot be read, are left out.
    """
    found = []
    for folder in folders(spool_dir):
        try:
            os.close(_locked(folder))
            segments = [path for path in _files(folder) if _SEGMENT.fullmatch(path.name)]
            batches = sum(len(frames_of(path.read_bytes())) for path in segments)
        except OSError:
            continue  # the adoption of this folder has counted it
        if batches:
            owner = _owner_of(folder)
            found.append((owner.url if owner else "", batches))
    return found


def _locked(folder: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    lock = os.open(folder / "lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _owner_of(folder: Path) -> Owner | None:
    """Return the owner of the batches in `folder`; None if it is unknown."""
    try:
        fields = json.loads((folder / "owner.json").read_text())
        return Owner(str(fields["url"]), str(fields["run"]), str(fields["project"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # removed in the meantime
