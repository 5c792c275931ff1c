"""A power cut that is simulated: a database of which only synced pages survive.

`power_cut.c` keeps a copy of each file as it was at its last fsync. `cut` stops the process, and
makes the files that a disk would hold: the synced pages, and perhaps some of the later ones.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from helpers.require import require

PAGE = 4096
"""Bytes that a disk writes as a whole."""


def environment(build: Path, home: Path, synced: Path) -> dict[str, str]:
    """Return the variables of a process whose files in `home` are copied to `synced` at a sync.

    Both folders must exist. Skips the test without a C compiler.
    """
    library = build / "power_cut.so"
    source = Path(__file__).with_suffix(".c")
    options = ["-O2", "-fPIC", "-shared", "-Wall", "-Werror"]
    command = [require("gcc"), *options, "-o", str(library), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    folders = {"POWER_CUT_FROM": str(home.resolve()), "POWER_CUT_TO": str(synced.resolve())}
    return {"LD_PRELOAD": str(library), **folders}


def stop(pid: int) -> None:
    """Send SIGSTOP and wait until each thread has stopped."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        states = [
            task.read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{pid}/task").glob("*/stat")
        ]
        if set(states) == {"T"}:
            return
        time.sleep(0.001)
    raise AssertionError("the process does not stop")


def survivors(home: Path, synced: Path, into: Path, later: random.Random | None) -> None:
    """Write the files that a power cut leaves of `home` into `into`.

    Without `later`, no page survives that was not synced; with it, each one does with a
    probability of one half, because a system may write a page before anybody asks for it.
    """
    for copy in synced.iterdir():
        old, live = copy.read_bytes(), home / copy.name
        new = live.read_bytes() if later is not None and live.exists() else old
        kept = old if later is None else mixed(old, new, later)
        (into / copy.name).write_bytes(kept)


def mixed(old: bytes, new: bytes, later: random.Random) -> bytes:
    """Return a file of which each page is from `old` or `new`; a page that neither has is zero."""
    size = later.choice((len(old), len(new)))
    result = bytearray(size)
    for at in range(0, size, PAGE):
        is_new = at < len(new) and later.random() < 0.5
        piece = (new if is_new else old)[at : min(at + PAGE, size)]
        result[at : at + len(piece)] = piece
    return bytes(result)
