"""The cost of the flight recorder in a watched run: the ratio of step times with and without it.

Blocks of one watched training alternate: with the recorder and without it, on the same model in the
same memory. The loop reads a shuffled DataLoader and reports losses per sample, so the recorder
does all of its work: random states, sample indices, losses, frames. Times are CPU seconds of the
training thread, which other processes disturb less than the wall clock; short blocks alternate, and
the median of the ratios counts. Own time is the wall time in the recorder, without the frames that
it is given every 64 steps and in full steps.

    python benchmarks/recorder.py --seconds 60
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trainvitals
from models import WORKLOADS, Workload
from overhead_blocks import interval

BLOCK_S = 0.05
STEPS_MIN, PAIRS_MIN = 3, 3
REPEATS = 8
"""The data set has the workload's batch so many times."""


def small() -> Workload:
    """An MLP with steps below a millisecond: 64-64-64-10, batch 32."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    model.append(nn.Linear(64, 10))
    return Workload("MLP 64-64-64-10", model, torch.randn(32, 64), torch.randint(10, (32,)))


class Off:
    """Stands in for a recorder and does nothing; its cost is that of an empty call."""

    problems: ClassVar[dict[str, str]] = {}

    def __init__(self, recorder: Any) -> None:
        self._recorder = recorder

    @property
    def cpu_s(self) -> float:
        """As the recorder: the budget of the capture reads it, and must not see a jump."""
        return float(self._recorder.cpu_s)

    def put(self, record: object) -> None:
        """Do nothing."""

    loss = step_ended = finding_opened = put


def endless(batches: Any) -> Iterator[Any]:
    """Yield the batches of one epoch after another."""
    while True:
        yield from batches


def ratios_kept(ratios: list[float]) -> list[float]:
    """Return the ratios without the lowest and the highest tenth."""
    cut = len(ratios) // 10
    return sorted(ratios)[cut : len(ratios) - cut]


def measure(workload: Workload, seconds: float) -> None:
    """Print a line for one workload."""
    model, samples = workload.model, len(workload.inputs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    data = TensorDataset(
        workload.inputs.repeat_interleave(REPEATS, 0), workload.target.repeat_interleave(REPEATS, 0)
    )
    loader = DataLoader(data, samples, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        monitor: Any = trainvitals.watch(
            model, optimizer, collector="off", record=folder, every=100
        )
        recorder = monitor._recorder
        off = Off(recorder)
        sources = {True: endless(monitor.batches(loader)), False: endless(loader)}

        def block(steps: int, *, is_recorded: bool) -> float:
            monitor._recorder = recorder if is_recorded else off
            recorder._batches_begin_steps = True
            gc.collect()
            started = time.thread_time()
            for inputs, target in itertools.islice(sources[is_recorded], steps):
                optimizer.zero_grad()
                monitor.loss(workload.losses(inputs, target)).mean().backward()
                optimizer.step()
            return (time.thread_time() - started) / steps

        block(10, is_recorded=True)
        steps = max(STEPS_MIN, round(BLOCK_S / block(10, is_recorded=False)))
        ratios, plain, own = [], [], []
        ends_at = time.perf_counter() + seconds
        before = block(steps, is_recorded=False)
        while len(ratios) < PAIRS_MIN or time.perf_counter() < ends_at:
            spent = recorder.cpu_s
            recorded = block(steps, is_recorded=True)
            own.append((recorder.cpu_s - spent) / steps)
            after = block(steps, is_recorded=False)
            ratios.append(2 * recorded / (before + after))
            plain.append(after)
            before = after
        middle, half = statistics.median(ratios) - 1, 1.25 * interval(ratios_kept(ratios)).half
        step_s = statistics.median(plain)
        print(
            f"{workload.name:22}  batch {samples:4}  step {step_s * 1e3:7.3f} ms  "
            f"recorder {middle * 100:+6.2f} % ± {half * 100:.2f}  "
            f"own time {statistics.median(own) * 1e6:5.1f} µs = "
            f"{statistics.median(own) / step_s * 100:.2f} %  "
            f"ring {recorder._ring.nbytes / 1e6:.1f} MB  ({len(ratios)} pairs of blocks)",
            flush=True,
        )
        monitor._recorder = recorder
        monitor.close()


def main() -> None:
    """Measure the small MLP and the reference models of overhead.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="per workload")
    seconds = parser.parse_args().seconds
    os.environ["TRAINVITALS_REPORT"] = "off"
    torch.set_num_threads(1)
    for make in (small, *WORKLOADS.values()):
        torch.manual_seed(0)
        measure(make(), seconds)


if __name__ == "__main__":
    main()
