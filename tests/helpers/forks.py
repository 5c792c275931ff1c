"""Processes that have the collector, or another module, imported before they start.

One process imports it and forks a copy of itself for each program: about 20 ms instead of a second
of CPU time. Tests kill such processes by the dozen.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_FORKING = """
import importlib, json, os, signal, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system removes children that have ended
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.update(job["environ"])
    sys.argv[1:] = job["arguments"]
    exec(compile(job["program"], "forked", "exec"), {"__name__": "__main__"})
    os._exit(0)
"""


@dataclass(frozen=True)
class Forked:
    """A running program."""

    pid: int
    began: str
    """When it began, in ticks: its number is given to another process later."""
    output: Path
    """What it printed, on both streams."""

    def is_running(self) -> bool:
        return _began(self.pid) == self.began

    def kill(self) -> None:
        """Send SIGKILL; return when the process has ended."""
        self._end(signal.SIGKILL, 30)

    def terminate(self) -> None:
        """Send SIGTERM; return when the process has ended."""
        self._end(signal.SIGTERM, 15)

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            assert time.monotonic() < deadline, f"a process does not end after {number.name}"
            time.sleep(0.001)


def _began(pid: int) -> str:
    """Return the start time of a process, "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Forks:
    """Starts programs in copies of one process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._started: list[Forked] = []

    def start(
        self, program: str, *arguments: str, output: Path, environ: Mapping[str, str] | None = None
    ) -> Forked:
        job = {
            "program": program,
            "arguments": arguments,
            "output": str(output),
            "environ": dict(environ or {}),
        }
        output.touch()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        pid = int(self._process.stdout.readline())
        started = Forked(pid, _began(pid), output)
        self._started.append(started)
        return started

    def kill_all(self) -> None:
        """Kill what a test that failed left running."""
        for started in self._started:
            started.kill()


@contextlib.contextmanager
def forks(*modules: str) -> Iterator[Forks]:
    """Yield what starts programs that have these modules imported; it ends with the block."""
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", _FORKING, *modules],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    made = Forks(process)
    try:
        yield made
    finally:
        made.kill_all()
        process.kill()
        process.wait(30)
