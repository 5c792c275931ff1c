"""A watched training, the time of each hand-over to delivery, and the time that closing takes.

Run as `python -m helpers.troubled_training URL SECONDS RUN`: prints one `Report` as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

import trainvitals
from trainvitals.ship import Shipper

STEP_S = 0.005
"""Pause after each step: a training waits for its accelerator or its data."""


@dataclass
class Report:
    """What a training saw."""

    losses: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    """At the end."""
    handovers_s: list[float] = field(default_factory=list)
    preempted_s: list[float] = field(default_factory=list)
    """The hand-overs during which the operating system gave the CPU to another thread."""
    close_s: float = 0.0
    errors: int = 0
    """Unexpected exceptions in the threads of delivery."""


def preemptions_so_far() -> int:
    """Return how often the scheduler took the CPU from this thread, which did not wait."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def train(url: str, run: str, more: Callable[[int], bool]) -> Report:
    """Train while `more(step)`, watched if there is a URL."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    report = Report()
    monitor = trainvitals.watch(model, optimizer, collector=url or "off", run=run)
    shipper = monitor._shipper
    if shipper is not None:
        put = shipper.put

        def timed(record: object) -> None:
            preemptions, begin = preemptions_so_far(), time.perf_counter()
            put(record)
            took_s = time.perf_counter() - begin
            undisturbed = preemptions_so_far() == preemptions
            (report.handovers_s if undisturbed else report.preempted_s).append(took_s)

        shipper.put = timed
    while more(len(report.losses)):
        optimizer.zero_grad()
        inputs = torch.randn(8, 8)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        monitor.loss(loss).backward()
        optimizer.step()
        report.losses.append(loss.item())
        if shipper is not None:
            time.sleep(STEP_S)
    begin = time.perf_counter()
    monitor.close()
    report.close_s = time.perf_counter() - begin
    report.weights = nn.utils.parameters_to_vector(model.parameters()).tolist()
    if isinstance(shipper, Shipper):
        report.errors = shipper.status.errors
    return report


def main() -> None:
    """Read the arguments, train and print."""
    url, seconds, run = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    end = time.monotonic() + seconds
    print(json.dumps(asdict(train(url, run, lambda _: time.monotonic() < end))), flush=True)


if __name__ == "__main__":
    main()
