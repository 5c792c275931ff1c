"""`trainvitals up` or `serve` as a user starts it: a process with a home of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def running_up(home: Path, command: str = "up") -> Iterator[str]:
    """Yield what the started collector has printed; terminate it when the block ends."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRAINVITALS_")}
    log = home / "printed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainvitals.cli", command, "--port", "0"],
            cwd=home,
            env=kept | {"TRAINVITALS_HOME": str(home)},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while "token file:" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        time.sleep(0.2)
        yield log.read_text()
    finally:
        process.terminate()
        process.wait(20)
