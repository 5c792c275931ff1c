"""Costs that do not depend on the training step: the floor, the import, and the call of `watch`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import torch
from torch import nn

import trainvitals


def read_once_s(model: nn.Module, repeats: int = 30) -> float:
    """Return the CPU seconds of one `torch.sum` over as many bytes as all weights and gradients.

    The buffer is flat and contiguous, so this is one pass at the speed of the memory, with no
    cost per tensor. No statistic of every weight and gradient is cheaper on this machine.
    """
    entries = sum(p.numel() for p in model.parameters() if p.requires_grad)
    buffer = torch.ones(2 * entries)
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        buffer.sum()
        times.append(time.thread_time() - start)
    return statistics.median(times)


def import_ms(statement: str, beyond: str, repeats: int = 5) -> float:
    """Return the CPU milliseconds of a new interpreter with `statement` less one with `beyond`."""

    def cpu_s(code: str) -> float:
        probe = f"{code}\nimport time; print(time.process_time())"
        command = [sys.executable, "-c", probe]
        return min(float(subprocess.check_output(command)) for _ in range(repeats))

    return 1e3 * (cpu_s(statement) - cpu_s(beyond))


def watch_ms(tensors: int, repeats: int = 5) -> float:
    """Return the milliseconds until `watch` returns for small layers with `tensors` parameters."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(tensors // 2)))
    optimizer = torch.optim.AdamW(model.parameters())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        monitor = trainvitals.watch(model, optimizer, collector="off")
        times.append(1e3 * (time.perf_counter() - start))
        monitor.close()
    return statistics.median(times)
