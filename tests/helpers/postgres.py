"""A real Postgres from local binaries, one for a test session, with a fresh database on demand."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from helpers.require import require


@dataclass(frozen=True)
class Postgres:
    """A running server, reached by a socket in `directory`."""

    directory: Path
    binaries: Path

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.directory}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield self.url(name)
        finally:
            with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def control(self, *arguments: str) -> None:
        """Run pg_ctl, as the user the server belongs to."""
        _as_user([str(self.binaries / "pg_ctl"), "-D", str(self.directory / "data"), *arguments])

    def start(self) -> None:
        options = f"-k {self.directory} -c listen_addresses='' -c fsync=off -c max_connections=100"
        log = str(self.directory / "log")
        self.control("-w", "-o", options, "-l", log, "start")


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Yield a server in a temporary directory. Skips, or fails with CI=true, without binaries."""
    binaries = Path(require("initdb")).parent
    # A short path: a socket's may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="tvpg", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(directory, "nobody")
    server = Postgres(directory, binaries)
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
