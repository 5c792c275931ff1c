"""Run programs that train, in processes that have imported torch already.

Comes in: the source of a program and its surroundings. Goes out: a finished process.
Promise:  the program begins in a `__main__` of its own with no module of trainvitals imported, and
          ends as a program of `python -c` ends: exit code, traceback, atexit and threads.
Start at `run_warm`.

A new Python needs 4 s of CPU time to import torch and make an optimizer, which imports torch's
compiler. Here one process does it, and each program is a fork of it. What depends on the import of
torch, such as `trainvitals run` before the program imports it, is tested with a new Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

TIMEOUT_S = 60
SERVER = """
import gc, json, os, signal, sys, types

sys.modules["triton"] = None  # the types of its C++ module would be reported as leaked at exit
import torch, torch._dynamo
del sys.modules["triton"]
gc.freeze()  # a fork that ends does not collect these objects: 0.7 s

def next_program():
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)

given = next_program()
signal.alarm(given["timeout_s"])
os.chdir(given["cwd"])
os.environ.clear()
os.environ.update(given["environment"])
for number, path in enumerate((os.devnull, given["stdout"], given["stderr"])):
    opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOCTTY)
    os.dup2(opened, number)
    os.close(opened)
sys.stdout = sys.__stdout__ = open(1, "w", 1 if os.isatty(1) else -1, closefd=False)
sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)
sys.argv = given["argv"]
main = sys.modules["__main__"] = types.ModuleType("__main__")
exec(compile(given["program"], "<string>", "exec"), vars(main))
"""


@cache
def _server() -> subprocess.Popen[str]:
    """Start the process that forks, once for each test process; it ends with its input."""
    return subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_warm(
    program: str,
    *argv: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    terminal: str = "",
    timeout_s: int = TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; one that takes longer than `timeout_s` ends by SIGALRM.

    `terminal`: the path of a terminal that stdout and stderr are written to, not to the result.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        for output in outputs:
            output.touch()
        given = {
            "program": program,
            "argv": ["-c", *argv],
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "timeout_s": timeout_s,
            "stdout": terminal or str(outputs[0]),
            "stderr": terminal or str(outputs[1]),
        }
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(given), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        assert answer, "the process that forks has ended"
        return subprocess.CompletedProcess(
            program, int(answer), *(output.read_text() for output in outputs)
        )
