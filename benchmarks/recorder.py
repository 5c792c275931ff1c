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
from overhead_blocks import interval

BLOCK_S = 0.05
SIZES = ((64, 64, 32), (784, 512, 128), (784, 1024, 256))
"""Inputs, width and samples of a batch; the second is the reference model of overhead.py."""


def model_of(inputs: int, width: int) -> nn.Module:
    """Return an MLP of three layers."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


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


def measure(inputs: int, width: int, samples: int, seconds: float) -> None:
    """Print a line for one size of model and batch."""
    torch.manual_seed(0)
    model = model_of(inputs, width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randn(4096, inputs)
    loader = DataLoader(TensorDataset(x, x[:, :10].argmax(1)), samples, shuffle=True)
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
                loss = nn.functional.cross_entropy(model(inputs), target, reduction="none")
                optimizer.zero_grad()
                monitor.loss(loss).mean().backward()
                optimizer.step()
            return (time.thread_time() - started) / steps

        block(50, is_recorded=True)
        steps = max(5, round(BLOCK_S / block(50, is_recorded=False)))
        ratios, plain, own = [], [], []
        ends_at = time.perf_counter() + seconds
        before = block(steps, is_recorded=False)
        while time.perf_counter() < ends_at:
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
            f"{inputs}-{width}-{width}-10  batch {samples:4}  step {step_s * 1e3:7.3f} ms  "
            f"recorder {middle * 100:+6.2f} % ± {half * 100:.2f}  "
            f"own time {statistics.median(own) * 1e6:5.1f} µs = "
            f"{statistics.median(own) / step_s * 100:.2f} %  "
            f"ring {recorder._ring.nbytes / 1e6:.1f} MB  ({len(ratios)} pairs of blocks)",
            flush=True,
        )
        monitor._recorder = recorder
        monitor.close()


def main() -> None:
    """Measure three sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="per size")
    seconds = parser.parse_args().seconds
    os.environ["TRAINVITALS_REPORT"] = "off"
    torch.set_num_threads(1)
    for inputs, width, samples in SIZES:
        measure(inputs, width, samples, seconds)


if __name__ == "__main__":
    main()
