"""Focal loss with a prior in the last bias, on data with two positives in a hundred."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import nn

from healthy.program import Program, Watch


class FocalLoss(nn.Module):
    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        p = logits.sigmoid()
        p_t = p * targets + (1 - p) * (1 - targets)
        alpha_t = self.alpha * targets + (1 - self.alpha) * (1 - targets)
        # Normalised by the number of positives, as detectors do.
        return (alpha_t * (1 - p_t) ** self.gamma * ce).sum() / targets.sum().clamp(min=1)


class Classifier(nn.Module):
    def __init__(self, hidden: int, prior: float) -> None:
        super().__init__()
        self.block1 = nn.Linear(20, hidden)
        self.block2 = nn.Linear(hidden, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.score = nn.Linear(hidden, 1)
        nn.init.constant_(self.score.bias, -math.log((1 - prior) / prior))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.norm1(self.block1(x)))
        x = F.silu(self.norm2(self.block2(x)))
        return self.score(x).squeeze(1)


def transactions(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = (torch.rand(n) < 0.02).float()
    x = torch.randn(n, 20)
    x[:, :4] += 1.6 * y[:, None]
    x[:, 4] = torch.where(y > 0, x[:, 5] * 0.9 + 0.3 * x[:, 4], x[:, 4])
    return x, y


def train(
    watch: Watch, seed: int, hidden: int = 64, gamma: float = 2.0, batch_size: int = 256
) -> float:
    torch.manual_seed(seed)
    x, y = transactions(20000)
    model = Classifier(hidden, prior=0.02)
    criterion = FocalLoss(gamma=gamma)
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    monitor = watch(model, optimizer)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(batch_size):
            loss = criterion(model(x[rows]), y[rows])
            optimizer.zero_grad()
            monitor.loss(loss)
            loss.backward()
            optimizer.step()
    x, y = transactions(10000)
    with torch.no_grad():
        return float(average_precision_score(y.numpy(), model(x).numpy()))


PROGRAM = Program(
    train,
    metric="average precision on test data, 0.02 by chance",
    healthy=0.5,
    settings=({"seed": 0}, {"seed": 1, "hidden": 32, "gamma": 1.0}, {"seed": 2, "batch_size": 512}),
)
