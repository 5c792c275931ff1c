"""A temporal convolutional network with weight norm solves the adding problem."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from healthy.program import Program, Watch

LENGTH = 50


class Chomp1d(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, : -self.size].contiguous()


class TemporalBlock(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, kernel: int, dilation: int) -> None:
        super().__init__()
        padding = (kernel - 1) * dilation
        self.conv1 = weight_norm(
            nn.Conv1d(fan_in, fan_out, kernel, padding=padding, dilation=dilation)
        )
        self.conv2 = weight_norm(
            nn.Conv1d(fan_out, fan_out, kernel, padding=padding, dilation=dilation)
        )
        self.net = nn.Sequential(
            self.conv1, Chomp1d(padding), nn.ReLU(), nn.Dropout(0.05),
            self.conv2, Chomp1d(padding), nn.ReLU(), nn.Dropout(0.05),
        )  # fmt: skip
        self.downsample = nn.Conv1d(fan_in, fan_out, 1) if fan_in != fan_out else None
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.net(x) + shortcut)


class TCN(nn.Module):
    def __init__(self, channels: int, levels: int, kernel: int) -> None:
        super().__init__()
        blocks = [
            TemporalBlock(channels if i else 2, channels, kernel, 2**i) for i in range(levels)
        ]
        self.tcn = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.tcn(x)[:, :, -1])


def adding(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sequences of numbers and marks, and the sum of the two marked numbers."""
    numbers, marks = torch.rand(n, LENGTH), torch.zeros(n, LENGTH)
    half = LENGTH // 2
    marks[torch.arange(n), torch.randint(half, (n,))] = 1
    marks[torch.arange(n), torch.randint(half, LENGTH, (n,))] = 1
    return torch.stack([numbers, marks], 1), (numbers * marks).sum(1, keepdim=True)


def train(
    watch: Watch, seed: int, channels: int = 24, kernel: int = 5, batch_size: int = 32
) -> float:
    torch.manual_seed(seed)
    model = TCN(channels, 4, kernel)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    monitor = watch(model, optimizer)
    x_train, y_train = adding(6000)
    for _ in range(3):
        model.train()
        for rows in torch.randperm(len(x_train)).split(batch_size):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x_train[rows]), y_train[rows])
            monitor.loss(loss)
            loss.backward()
            optimizer.step()
    model.eval()
    x, y = adding(1000)
    with torch.no_grad():
        return float(F.mse_loss(model(x), y) / y.var())


PROGRAM = Program(
    train,
    metric="squared error over the variance of test sums",
    healthy=0.2,
    lower_is_better=True,
    settings=({"seed": 0}, {"seed": 1, "channels": 32}),
)
