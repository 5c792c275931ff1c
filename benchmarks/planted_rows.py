"""How often `trainvitals replay` names a planted bad sample first.

Each case trains a small model under the flight recorder on samples of which one is bad and is read
in the last epoch only. The recorded step is replayed from a factory with new weights, and the first
sample of the ranking is compared with the planted one.

    python benchmarks/planted_rows.py --seeds 10
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import trainvitals
from trainvitals.api.schema import Finding, Severity
from trainvitals.recorder.bundle import read
from trainvitals.replay import Replay, replay

SAMPLES, BATCH, CLEAN_EPOCHS = 192, 16, 6
FAULTS = ("nan", "infinite", "outlier", "label")


class Sequence(nn.Module):
    """A GRU over the features, as a sequence of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(2, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (samples, 3)."""
        out: Tensor = self.head(self.gru(x.view(-1, 4, 2))[0][:, -1])
        return out


def mlp(outputs: int = 3, *middle: nn.Module) -> nn.Module:
    """Return two layers with `middle` between them."""
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), *middle, nn.Linear(32, outputs))


def convolution() -> nn.Module:
    """Return a convolution with batch norm."""
    layers = nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten()
    return nn.Sequential(nn.Unflatten(1, (1, 8)), *layers, nn.Linear(64, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "dropout": lambda: mlp(3, nn.Dropout(0.2)),
    "batch norm": convolution,
    "recurrent": Sequence,
    "regression": lambda: mlp(1),
}


@dataclass(frozen=True)
class Case:
    """One planted sample. `index` is its number in the data set."""

    model: str
    fault: str
    seed: int

    @property
    def index(self) -> int:
        """The number of the planted sample."""
        return (self.seed * 37 + 11) % SAMPLES

    def samples(self) -> TensorDataset:
        """Return the data set with the planted sample."""
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(SAMPLES, 8, generator=generator)
        if self.model == "regression":
            y = x[:, :2].sum(1, keepdim=True) + 0.1 * torch.randn(SAMPLES, 1, generator=generator)
        else:
            y = x[:, :3].argmax(1)
        at = self.index
        if self.fault == "label":
            y[at] = y[at] + 30.0 if self.model == "regression" else x[at, :3].argmin()
        elif self.fault == "outlier":
            x[at] *= 100
        else:
            x[at, self.seed % 8] = float("nan" if self.fault == "nan" else "inf")
        return TensorDataset(x, y)

    def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return a model with new weights and its optimizer."""
        model = MODELS[self.model]()
        return model, torch.optim.AdamW(model.parameters(), lr=2e-2)

    def loss(self, reduction: str) -> nn.Module:
        """Return the loss module."""
        if self.model == "regression":
            return nn.MSELoss(reduction=reduction)
        return nn.CrossEntropyLoss(reduction=reduction)


class Order(torch.utils.data.Sampler[int]):
    """Random epochs without the planted sample, and then one with it."""

    def __init__(self, planted: int) -> None:
        self.planted, self.has_planted = planted, False

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(SAMPLES).tolist()
        return iter([i for i in order if self.has_planted or i != self.planted])


def recorded(case: Case, folder: str, *, per_sample: bool) -> Path:
    """Train, and return the file of the step that read the planted sample."""
    torch.manual_seed(1000 + case.seed)
    model, optimizer = case.build()
    monitor: Any = trainvitals.watch(
        model, optimizer, collector="off", record=folder, record_state=True
    )
    order = Order(case.index)
    loader = DataLoader(case.samples(), BATCH, sampler=order)
    criterion = case.loss("none" if per_sample else "mean")
    step = 0
    for epoch in range(CLEAN_EPOCHS + 1):
        order.has_planted = epoch == CLEAN_EPOCHS
        for x, y in monitor.batches(loader):
            loss = monitor.loss(criterion(model(x), y)).mean()
            has_planted = any(case.index in batch for batch in monitor._recorder._context.batches)
            if has_planted and case.fault in ("outlier", "label"):
                monitor._recorder.finding_opened(opened(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if has_planted:
                monitor.close()
                return Path(monitor.recordings[0])
    raise RuntimeError(f"{case} never read its planted sample")


def opened(step: int) -> Finding:
    """Return a finding of the step; the rules would need more steps to report it."""
    return Finding(
        rule="loss_spike", code="TV504", severity=Severity.WARNING, since_step=step, summary="."
    )


def replayed(case: Case, file: Path) -> Replay:
    """Replay a file from a factory with other weights."""
    torch.manual_seed(7)
    model, optimizer = case.build()
    return replay(read(file), model, optimizer, case.loss("mean"), case.samples())


def cases(seeds: int) -> list[Case]:
    """Return the cases of all models and faults."""
    return [Case(m, f, s) for m, f, s in itertools.product(MODELS, FAULTS, range(seeds))]


def first_named(case: Case, *, per_sample: bool) -> tuple[bool, bool]:
    """Return whether the planted sample is first, and whether the loss was reproduced."""
    with tempfile.TemporaryDirectory() as folder:
        found = replayed(case, recorded(case, folder, per_sample=per_sample))
    # A non-finite loss is recorded per sample only.
    return found.samples[0].index == case.index, found.is_reproduced is not False


def main() -> None:
    """Print the share of cases for each fault and model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    os.environ["TRAINVITALS_REPORT"] = "off"
    logging.getLogger("trainvitals").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    named: Counter[str] = Counter()
    total: Counter[str] = Counter()
    reproduced = 0
    found = cases(seeds)
    for at, case in enumerate(found):
        is_first, is_reproduced = first_named(case, per_sample=at % 2 == 0)
        reproduced += is_reproduced
        for key in ("all", f"fault {case.fault}", f"model {case.model}"):
            named[key] += is_first
            total[key] += 1
        if not is_first or not is_reproduced:
            print(f"first {is_first}, reproduced {is_reproduced}: {case}", flush=True)
    for key, count in total.items():
        print(f"{key:20} {named[key]}/{count} named first", flush=True)
    print(f"{'loss':20} {reproduced}/{len(found)} reproduced")


if __name__ == "__main__":
    main()
