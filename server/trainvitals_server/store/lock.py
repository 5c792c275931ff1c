"""One collector per SQLite file: a lock on a file beside it.

Comes in: the database's URL. Goes out: a lock that the operating system releases when the process
          ends, also by SIGKILL.
The lock file stays. It shows whether the tables were created before, so an emptied database is not
mistaken for a new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy.engine import URL

from trainvitals_server.store.migrate import CREATED, StoreUnusable, lock_path


@contextlib.contextmanager
def one_collector(url: URL) -> Iterator[Callable[[], None]]:
    """Hold the lock of a SQLite database; do nothing for Postgres, which collectors may share.

    Yield a function to call when the tables exist.

    Raises:
        StoreUnusable: another collector holds it, or the directory cannot be written.
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
            holder = file.readline().strip() or "unknown"
            raise StoreUnusable(
                f"Another collector uses {path} (process {holder}). A "
                "SQLite database has one collector: stop that one, give this one another "
                "--database, or use Postgres, which collectors can share."
            ) from error

        def write(*lines: str) -> None:
            file.seek(0)
            file.truncate()
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()

        file.seek(0)
        process = str(os.getpid())
        write(process, *([CREATED] if CREATED in file.read() else []))
        yield lambda: write(process, CREATED)
