"""One collector per SQLite file: a lock on a file beside it.

Comes in: the database's URL. Goes out: a lock that the operating system releases when the process
          ends, also by SIGKILL.
The lock file stays. Its first line is the process that holds the lock, or held it last. The line
`created` shows that the tables were created before, so an emptied database is not mistaken for a
new one. The line `address URL` tells other commands where that collector answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL

from trainvitals_server.store.migrate import CREATED, StoreUnusable, lock_path

_ADDRESS: Final = "address "


class InUse(StoreUnusable):
    """Another process holds the lock. `address` is the URL of its API, or "" when it has none."""

    def __init__(self, message: str, address: str) -> None:
        super().__init__(message)
        self.address = address


@contextlib.contextmanager
def one_collector(url: URL, address: str = "") -> Iterator[Callable[[], None]]:
    """Hold the lock of a SQLite database; do nothing for Postgres, which collectors may share.

    Yield a function to call when the tables exist. `address` is the URL of this process' API, for
    the other commands on this machine.

    Raises:
        InUse: another process holds it.
        StoreUnusable: the directory cannot be written.
    """
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        yield lambda: None
        return
    path = Path(url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock_path(path), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUnusable(f"{lock_path(path)} cannot be written: {error.strerror}.") from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lines = file.read().splitlines()
            holder = lines[0] if lines else "unknown"
            addresses = [line[len(_ADDRESS) :] for line in lines if line.startswith(_ADDRESS)]
            raise InUse(
                f"Another collector uses {path} (process {holder}). A "
                "SQLite database has one collector: stop that one, give this one another "
                "--database, or use Postgres, which collectors can share.",
                addresses[0] if addresses else "",
            ) from error

        def write(*lines: str) -> None:
            file.seek(0)
            file.truncate()
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()

        file.seek(0)
        mine = [str(os.getpid()), *([_ADDRESS + address] if address else [])]
        write(*mine, *([CREATED] if CREATED in file.read().splitlines() else []))
        yield lambda: write(*mine, CREATED)
