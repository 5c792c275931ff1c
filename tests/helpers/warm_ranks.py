"""Run a program once for each rank, in forks of a process that has imported torch already.

Comes in: the path of a program and the number of ranks. Goes out: a finished process.
Promise:  each rank has the environment that torchrun gives it, a free port for the others, and the
          same parent; a rank that fails ends the others.
Start at `run_ranks`. What torchrun itself does is tested with torchrun.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from helpers.warm_python import run_warm

LAUNCHER = """
import os, runpy, signal, socket, sys

path, ranks, *arguments = sys.argv[1:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.environ |= {
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": ranks,
    "LOCAL_WORLD_SIZE": ranks, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0",
}
seconds = signal.alarm(0)
started = set()
for rank in range(int(ranks)):
    if (process := os.fork()) == 0:
        signal.alarm(seconds)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        sys.argv = [path, *arguments]
        runpy.run_path(path, run_name="__main__")
        break
    started.add(process)
else:
    failed = 0
    while started:
        process, status = os.wait()
        started.remove(process)
        if status and not failed:
            failed = status
            for other in started:
                os.kill(other, signal.SIGTERM)
    sys.exit(bool(failed))
"""


def run_ranks(
    program: Path | str,
    *arguments: str,
    ranks: int = 2,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: int = 240,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in each rank; a rank that takes longer ends by SIGALRM."""
    return run_warm(
        LAUNCHER, str(program), str(ranks), *arguments, cwd=cwd, env=env, timeout_s=timeout_s
    )
