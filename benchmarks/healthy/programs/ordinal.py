"""CORAL: ordinal regression of five ranks with one weight vector and ordered biases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch

RANKS = 5


class CoralMLP(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.coral = nn.Linear(hidden, 1, bias=False)
        self.coral_bias = nn.Parameter(torch.arange(RANKS - 1, 0, -1).float() / (RANKS - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.fc1(x)))
        x = F.relu(self.bn2(self.fc2(x)))
        return self.coral(x) + self.coral_bias


def coral_loss(logits: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    term = F.logsigmoid(logits) * levels + (F.logsigmoid(logits) - logits) * (1 - levels)
    return -term.sum(1).mean()


def ratings(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 12)
    score = x[:, 0] * x[:, 1] + x[:, 2].abs() + 0.5 * x[:, 3] + 0.2 * torch.randn(n)
    return x, torch.bucketize(score, torch.tensor([-0.5, 0.3, 1.0, 2.0]))


def train(
    watch: Watch, seed: int, hidden: int = 64, lr: float = 0.05, batch_size: int = 128
) -> float:
    torch.manual_seed(seed)
    x, y = ratings(6000)
    levels = (y[:, None] > torch.arange(RANKS - 1)).float()
    model = CoralMLP(hidden)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=lr)
    monitor = watch(model, optimizer)
    for _ in range(20):
        model.train()
        for rows in torch.randperm(len(x)).split(batch_size):
            loss = coral_loss(model(x[rows]), levels[rows])
            monitor.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    x, y = ratings(2000)
    with torch.no_grad():
        predicted = (model(x).sigmoid() > 0.5).sum(1)
    return float((predicted - y).abs().float().mean())


PROGRAM = Program(
    train,
    metric="mean absolute error in ranks, 1.1 for the median",
    healthy=0.55,
    lower_is_better=True,
    settings=({"seed": 0}, {"seed": 1, "hidden": 128}, {"seed": 2, "lr": 0.02, "batch_size": 64}),
)
