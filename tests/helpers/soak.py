"""Train without an end, and report what a process holds: memory, descriptors, threads, files.

`main` is a program with the arguments URL SECONDS STEPS. Each half second it writes one line of
JSON, a `Held` and the step, to its output. `Held.of` measures any process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

INTERVAL_S = 0.5


@dataclass(frozen=True)
class Held:
    """What a process holds at one time."""

    rss_mib: float
    descriptors: int
    threads: int
    files: int
    """Files in a folder."""

    @classmethod
    def of(cls, pid: int, folder: Path) -> Held:
        """Measure a process, and count the files below a folder."""
        proc = Path(f"/proc/{pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return cls(
            pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            len(list((proc / "fd").iterdir())),
            len(list((proc / "task").iterdir())),
            sum(path.is_file() for path in folder.rglob("*")),
        )


def train(url: str, seconds: float, steps: float) -> None:
    """Train a small network for at least this time and these steps; report what is held."""
    import torch

    import trainvitals

    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 16), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    spool = Path(os.environ["TRAINVITALS_SPOOL_DIR"])
    begin = reported = time.monotonic()
    step = 0
    with trainvitals.watch(model, optimizer, collector=url, run="soak") as monitor:
        while reported - begin < seconds or step < steps:
            optimizer.zero_grad()
            inputs = torch.randn(8, 16)
            monitor.loss((model(inputs) - inputs.sum(1, keepdim=True)).square().mean()).backward()
            optimizer.step()
            step += 1
            if time.monotonic() - reported >= INTERVAL_S:
                reported = time.monotonic()
                held = Held.of(os.getpid(), spool)
                print(json.dumps({"step": step, **asdict(held)}), flush=True)


def main() -> None:
    """Read the arguments and train."""
    train(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
