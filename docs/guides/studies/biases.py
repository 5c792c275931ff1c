"""The prior of the last bias, and the drift of a bias with and without a remedy."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

import trainvitals
from studies.common import Floats, offset_data
from trainvitals import remedies
from trainvitals.remedies import biases

SAMPLES = 256


@dataclass(frozen=True)
class BiasRun:
    """One training: the loss at each step, the results of the audit, and the findings."""

    losses: Floats
    steps: Floats
    """Steps at which the biases were audited."""
    ratio: Floats
    """Drift of the head's bias relative to S of its layer, at these steps."""
    bias: Floats
    """The head's bias at these steps, shape (steps, outputs)."""
    codes: tuple[str, ...]
    """Rules with an open finding at the end."""

    def share_of_start(self, last: int = 10) -> float:
        """Return the final loss relative to the first one."""
        return float(self.losses[-last:].mean() / self.losses[0])


REMEDIES = ("no remedy", "bias rate / 10", "L2 penalty", "head's bias = mean", "standardised")
HIDDEN = "no remedy, hidden layer, Adam"


def drift(remedy: str = "no remedy", *, steps: int = 300, learning_rate: float = 0.003) -> BiasRun:
    """Fit targets with mean 50 and standard deviation 1 by a linear model and SGD.

    `remedy` is one of `REMEDIES`, or `HIDDEN` for a network with a hidden layer and Adam. The
    losses are the mean squared error without the penalty; 1 is the variance of the targets.
    """
    x, y = offset_data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 1))
    if remedy == HIDDEN:
        model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    if remedy == "head's bias = mean":
        remedies.initialise(model, "torch_default", targets=y)
    if remedy == "standardised":
        y = (y - y.mean()) / y.std()
    slower = learning_rate / 10 if remedy == "bias rate / 10" else None
    algorithm = torch.optim.Adam if remedy == HIDDEN else torch.optim.SGD
    optimizer = algorithm(
        biases.parameter_groups(
            model, weight_decay=0.0, learning_rate=learning_rate, bias_learning_rate=slower
        )
    )
    penalty = 1.0 if remedy == "L2 penalty" else 0.0
    return _watched(model, optimizer, nn.MSELoss(), x, y, steps, penalty=penalty)


def prior(*, known: bool, steps: int = 200) -> BiasRun:
    """Classify three classes with shares 0.90, 0.07 and 0.03, with and without the prior."""
    x, y = unequal_classes()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 3))
    if known:
        remedies.initialise(model, "torch_default", targets=y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return _watched(model, optimizer, nn.CrossEntropyLoss(), x, y, steps)


def unequal_classes(samples: int = 2048) -> tuple[Tensor, Tensor]:
    """Return inputs (samples, 8), shifted by class, and classes (samples,) that are 90 % zeros."""
    generator = torch.Generator().manual_seed(0)
    y = torch.multinomial(
        torch.tensor([0.90, 0.07, 0.03]), samples, replacement=True, generator=generator
    )
    return torch.randn(samples, 8, generator=generator) + nn.functional.one_hot(y, 8), y


OFFSETS = (5.0, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.0)
"""Means of the eight targets of `penalised`."""
PENALTIES: dict[str, dict[str, float]] = {
    "no penalty": {},
    "L2, 0.05 · Σb²": {"l2": 0.05},
    "L1, 0.1 · Σ|b|": {"l1": 0.1},
}


def penalised(name: str, *, steps: int = 400) -> Floats:
    """Fit eight targets with the means `OFFSETS` by a linear model; return its biases, shape (8,).

    At the minimum of the mean squared error over eight units, a bias is o / (1 + 8 · l2) with the
    L2 penalty, and o less 4 · l1 (or 0) with the L1 penalty, for a target with mean o.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 8, generator=generator)
    x = x - x.mean(0)
    y = x @ torch.randn(8, 8, generator=generator) + torch.tensor(OFFSETS)
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        (loss + biases.bias_penalty(model, **PENALTIES[name])).backward()
        optimizer.step()
    return model.bias.detach().double().numpy()


def _watched(
    model: nn.Sequential,
    optimizer: torch.optim.Optimizer,
    loss_function: nn.Module,
    x: Tensor,
    y: Tensor,
    steps: int,
    *,
    penalty: float = 0.0,
    every: int = 5,
) -> BiasRun:
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    head = f"{len(model) - 1}.bias"
    losses, audited, ratios, values = [], [], [], []
    generator = torch.Generator().manual_seed(0)
    with _quiet(), trainvitals.watch(model, optimizer, every=1, collector="off") as monitor:
        for step in range(steps):
            rows = torch.randint(0, len(x), (64,), generator=generator)
            optimizer.zero_grad()
            value = loss_function(model(x[rows]), y[rows])
            monitor.loss(value)
            losses.append(float(value.detach()))
            total = value + biases.bias_penalty(model, l2=penalty) if penalty else value
            total.backward()
            optimizer.step()
            if step % every == 0:
                row = biases.audit(model, x[:SAMPLES], initial=initial).of(head)
                audited.append(step)
                ratios.append(np.nan if row.ratio is None else row.ratio)
                values.append(model[-1].bias.detach().tolist())
        codes = tuple(finding.code for finding in monitor.diagnosis().findings)
    return BiasRun(
        np.array(losses), np.array(audited, float), np.array(ratios), np.array(values), codes
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Print neither the card of a run nor its findings."""
    log = logging.getLogger("trainvitals")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with patch.dict(os.environ, TRAINVITALS_REPORT="off"):
            yield
    finally:
        log.setLevel(level)
