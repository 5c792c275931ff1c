"""A real Postgres from local binaries, one for a test session, with a new database on demand."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from helpers.require import require
from trainvitals_server.store.migrate import migrate


@dataclass(frozen=True)
class Postgres:
    """A running server, reached by a socket in `directory`."""

    directory: Path
    binaries: Path
    options: str
    """Of the command `postgres`."""

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.directory}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of a new, empty database."""
        with self._copy_of("template1") as url:
            yield url

    @contextlib.contextmanager
    def migrated_database(self) -> Iterator[str]:
        """Yield the URL of a new database with the tables of this version."""
        with self._copy_of(self._migrated) as url:
            yield url

    @functools.cached_property
    def _migrated(self) -> str:
        """The name of a database with the tables of this version, which nobody connects to."""
        self._execute('CREATE DATABASE "migrated"')
        migrate(self.url("migrated"))
        return "migrated"

    @contextlib.contextmanager
    def _copy_of(self, template: str) -> Iterator[str]:
        name = f"t{uuid.uuid4().hex}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield self.url(name)
        finally:
            self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def control(self, *arguments: str) -> None:
        """Run pg_ctl, as the user the server belongs to."""
        _as_user([str(self.binaries / "pg_ctl"), "-D", str(self.directory / "data"), *arguments])

    def start(self) -> None:
        options = f"-k {self.directory} -c listen_addresses='' -c max_connections=100"
        log = self.directory / "log"
        try:
            self.control("-w", "-o", f"{options} {self.options}", "-l", str(log), "start")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text()[-2000:]}") from error

    def kill(self) -> None:
        """Send SIGKILL to the postmaster and to all its children; return when all have ended."""
        data = self.directory / "data"
        stopped: set[int] = set()
        # All are stopped first: the postmaster or a child would react to the end of another.
        while new := _working_in(data) - stopped:
            _signal(new, signal.SIGSTOP)
            stopped |= new
        _signal(stopped, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while _working_in(data):
            assert time.monotonic() < deadline, "processes of Postgres do not end"
            time.sleep(0.001)
        # In a container nobody may reap the killed postmaster: Postgres would take it for running.
        # After a power cut no process has this number either.
        (data / "postmaster.pid").unlink()
        for socket in self.directory.glob(".s.PGSQL.*"):
            socket.unlink()


@contextlib.contextmanager
def running_postgres(*, synced: bool = False, options: str = "") -> Iterator[Postgres]:
    """Yield a server in a temporary directory. Skips, or fails with CI=true, without binaries.

    `synced`: commits are synced to the disk, as by an operator's server. The tests that need no
    synced commit are faster without.
    """
    binaries = Path(require("initdb")).parent
    # A short path: a socket's may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="tvpg", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(directory, "nobody")
    fsync = "on" if synced else "off"
    server = Postgres(directory, binaries, f"-c fsync={fsync} {options}")
    try:
        made = [str(binaries / "initdb"), "-D", str(directory / "data"), "-U", "postgres"]
        _as_user([*made, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
        server.start()
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _working_in(folder: Path) -> set[int]:
    """Return the processes whose working directory is `folder`: those of a server on its data."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == folder:
                    found.add(int(entry.name))
    return found


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _as_user(command: list[str]) -> None:
    """Run `command`; Postgres refuses root, so root becomes nobody."""
    prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    done = subprocess.run(
        [*(prefix if os.geteuid() == 0 else []), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/tmp",
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr}")
