"""Calibration, speed and robustness by loss, and wrong pairings of output and loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import trainvitals
from studies.common import Floats, examples, offset_data
from trainvitals.experiments.result import Result

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Reliability:
    """Predicted probability against the share of cases in which the event happened."""

    predicted: Floats
    """Mean predicted probability of each bin that has samples."""
    happened: Floats
    """Share of the samples in each of these bins for which the event happened."""
    error: float
    """Expected calibration error, 0 to 1."""
    accuracy: float
    """Share of right decisions."""


def reliability(
    predicted: Tensor, happened: Tensor, accuracy: float, bins: int = 10
) -> Reliability:
    """Return the reliability of probabilities (samples,) of an event, 0 or 1 for each sample.

    For classes, the event is that the most probable class is the right one.
    Source: Guo et al. 2017, arXiv:1706.04599.
    """
    at = (predicted * bins).long().clamp(max=bins - 1)
    groups = [at == k for k in range(bins) if bool((at == k).any())]
    means = np.array([float(predicted[g].double().mean()) for g in groups])
    shares = np.array([float(happened[g].double().mean()) for g in groups])
    sizes = np.array([int(g.sum()) for g in groups])
    error = float((np.abs(means - shares) * sizes).sum() / len(predicted))
    return Reliability(means, shares, error, accuracy)


def fitted(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, steps: int, learning_rate: float = 1e-3
) -> nn.Module:
    """Train the model with AdamW on batches of 64 and return it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,))
        optimizer.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model


CLASS_LOSSES: dict[str, nn.Module] = {
    "cross entropy": nn.CrossEntropyLoss(),
    "MSE of one-hot targets": examples.OneHotMSE(),
}


def calibration(name: str, *, steps: int = 150, seeds: int = 5) -> Reliability:
    """Train on digits with one of `CLASS_LOSSES`; the held-out predictions are pooled."""
    x, y = examples.digits()
    found, held = [], torch.arange(len(x)) % 4 == 0
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = fitted(examples.stack(2, nn.ReLU), CLASS_LOSSES[name], x[~held], y[~held], steps)
        with torch.no_grad():
            found.append(model(x[held]).softmax(1))
    confidence, chosen = torch.cat(found).max(1)
    right = chosen == y[held].repeat(seeds)
    return reliability(confidence, right, float(right.double().mean()))


def rare(*, weighted: bool, steps: int = 500, seeds: int = 5) -> tuple[Reliability, float]:
    """Train on labels of which 5 % are ones, without and with `pos_weight`.

    Returns the reliability and the recall of the ones, on held-out samples.
    """
    x, y = rare_labels()
    held = torch.arange(len(x)) % 2 == 0
    weight = (1 - y).sum() / y.sum() if weighted else None
    loss = nn.BCEWithLogitsLoss(pos_weight=weight)
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
        fitted(model, loss, x[~held], y[~held], steps, learning_rate=3e-3)
        with torch.no_grad():
            found.append(model(x[held]).sigmoid())
    share, target = torch.cat(found), y[held].repeat(seeds)
    right = (share > 0.5) == (target == 1)
    recall = float(right[target == 1].double().mean())
    return reliability(share, target, float(right.double().mean())), recall


def rare_labels(samples: int = 8000) -> tuple[Tensor, Tensor]:
    """Return inputs (samples, 8) and labels (samples,), 5 % ones; the classes overlap."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(samples, generator=generator) < 0.05).float()
    x = torch.randn(samples, 8, generator=generator)
    x[:, :3] += 1.2 * y[:, None]
    return x, y


class SoftmaxTwice(nn.Module):
    """The cross entropy of probabilities: softmax is applied a second time."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (n, classes) and class indices (n,)."""
        return nn.functional.cross_entropy(prediction.softmax(1), target)


def pairings(*, steps: int = 150, seeds: int = 3) -> Result:
    """Classify digits with the right pairing of output and loss and two wrong ones; accuracy."""
    return trainvitals.experiment(
        lambda: examples.stack(2, nn.ReLU),
        examples.digits(),
        {
            "logits": nn.CrossEntropyLoss(),
            "softmax twice": SoftmaxTwice(),
            "MSE of one-hot targets": examples.OneHotMSE(),
        },
        steps=steps,
        seeds=seeds,
        robustness=False,
    )


@dataclass(frozen=True)
class Broadcast:
    """Predictions after a training whose shapes did or did not match."""

    target: Floats
    """Mean target of each tenth of the samples, ascending."""
    predicted: Floats
    """Mean prediction of these samples."""
    error: float
    """Mean squared error relative to the variance of the targets; 1 for the mean."""


def broadcast(*, mismatched: bool, steps: int = 300) -> Broadcast:
    """Fit a regression with predictions (n, 1) and targets (n,) or (n, 1)."""
    x, y = offset_data(offset=0.0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(prediction, target.flatten() if mismatched else target)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the broadcast
        fitted(model, loss, x, y, steps, learning_rate=0.003)
    with torch.no_grad():
        prediction = model(x)
    tenths = y.flatten().argsort().tensor_split(10)
    return Broadcast(
        np.array([float(y[rows].mean()) for rows in tenths]),
        np.array([float(prediction[rows].mean()) for rows in tenths]),
        float((prediction - y).square().mean() / y.var(correction=0)),
    )
