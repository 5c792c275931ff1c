"""What watching costs: the time of a step with the monitor over the time without it.

One instance of each model is trained in blocks of steps, watched and unwatched in turn (two
instances differ by up to 27 % by their place in memory alone). A block's time is the median of its
steps, a ratio is taken for each neighbouring pair of blocks, and the figure is the median of the
ratios with their quartiles. Below about 1.03 the difference is noise on a shared machine; `own` is
what the monitor measured itself (CPU of all its threads over step time).

    python benchmarks/overhead.py                 # all models, every step and default
    python benchmarks/overhead.py --models ad --pairs 9 --fused
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

import trainvitals
from models import WORKLOADS, Workload

STEPS = {"a": 60, "b": 3, "c": 3, "d": 24}
"""Steps in a block, so that a block takes about as long for every model."""
FULL_AT_START = 64
"""A run's first steps are all measured in full; the default's cost is what comes after them."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    os.environ["TRAINVITALS_REPORT"] = "off"
    print(
        f"torch {torch.__version__}, python {platform.python_version()}, {args.threads} thread(s), "
        f"AdamW{' fused' if args.fused else ''}, {args.pairs} pairs of blocks"
    )
    print(f"import trainvitals: {import_ms():.0f} ms beyond an empty interpreter\n")
    print(f"{'model':24} {'setting':12} {'step ms':>8} {'ratio':>7} {'quartiles':>15} {'own':>7}")
    for key in args.models:
        workload = WORKLOADS[key]()
        optimizer = torch.optim.AdamW(workload.model.parameters(), lr=1e-4, fused=args.fused)
        for setting, every in (("every step", 1), ("default", None)):
            measure(workload, optimizer, STEPS[key], args.pairs, setting, every)
    print(f"\nwatch() on 500 tensors returns in {watch_ms():.1f} ms (median of 5)")


def measure(
    workload: Workload,
    optimizer: torch.optim.Optimizer,
    steps: int,
    pairs: int,
    setting: str,
    every: int | None,
) -> None:
    """Print one row of the table."""

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        workload.loss().backward()
        optimizer.step()

    def block(work: Callable[[], None]) -> float:
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    for _ in range(3):
        step()
    # A default run measures its first steps in full; large models stay within the budget there
    # and then, so their blocks lie in the first steps as they would in a real run.
    warm = FULL_AT_START + 8 if every is None and steps > 10 else 3
    ratios, plain_times, own = [], [], []
    for _ in range(pairs):
        plain = block(step)
        monitor = trainvitals.watch(workload.model, optimizer, collector="off", every=every)

        def watched() -> None:
            optimizer.zero_grad(set_to_none=True)
            monitor.loss(workload.loss()).backward()  # noqa: B023 - called in this round only
            optimizer.step()

        for _ in range(warm):
            watched()
        ratios.append(block(watched) / plain)
        plain_times.append(plain)
        own.append(monitor.diagnosis().overhead or float("nan"))
        monitor.close()
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"{workload.name:24} {setting:12} {statistics.median(plain_times) * 1e3:8.1f} "
        f"{middle:7.3f} {low:7.3f}-{high:<7.3f} {statistics.median(own):7.2%}",
        flush=True,
    )


def import_ms() -> float:
    """Return the CPU milliseconds of `import trainvitals` beyond starting Python."""

    def cpu_s(statement: str) -> float:
        probe = f"{statement}\nimport time; print(time.process_time())"
        return min(float(subprocess.check_output([sys.executable, "-c", probe])) for _ in range(5))

    return 1e3 * (cpu_s("import trainvitals") - cpu_s("pass"))


def watch_ms() -> float:
    """Return the milliseconds until `watch` returns for 500 tensors."""
    workload = WORKLOADS["d"]()
    optimizer = torch.optim.AdamW(workload.model.parameters())
    times = []
    for _ in range(5):
        start = time.perf_counter()
        monitor = trainvitals.watch(workload.model, optimizer, collector="off")
        times.append(1e3 * (time.perf_counter() - start))
        monitor.close()
    return statistics.median(times)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="abcd", help="which of a, b, c, d")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fused", action="store_true", help="fused AdamW")
    args = parser.parse_args()
    if not set(args.models) <= set(WORKLOADS):
        parser.error(f"--models takes letters of {''.join(WORKLOADS)}")
    return args


if __name__ == "__main__":
    main()
