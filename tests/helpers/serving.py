"""`trainvitals serve` in a process of its own, as an operator starts it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "import sys\nfrom trainvitals.cli import main\nsys.exit(main())"
COMMAND = [sys.executable, "-c", PROGRAM]


@dataclass(frozen=True)
class Serving:
    """A running collector."""

    url: str
    process: subprocess.Popen[str]
    token_file: Path


@contextlib.contextmanager
def serving(home: Path, *options: str, before: str = "", **environment: str) -> Iterator[Serving]:
    """Yield the collector as soon as it answers; terminate it when the block ends.

    `before` is Python that the process runs first: a broken build.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", before + PROGRAM, "serve", "--port", "0", *options],
        env={**os.environ, "TRAINVITALS_HOME": str(home), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = [process.stderr.readline()]
        while "token file" not in lines[-1]:
            assert lines[-1], f"the collector ended: {''.join(lines)}"
            lines.append(process.stderr.readline())
        url = next(line.split()[-1] for line in lines if line.startswith("trainvitals collector:"))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Serving(url, process, Path(lines[-1].split(maxsplit=2)[2].strip()))
    finally:
        process.terminate()
        process.wait(30)
