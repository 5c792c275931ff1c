"""A conditional neural process predicts curves from a few points; the loss is a likelihood."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.distributions import Normal

from healthy.program import Program, Watch

POINTS = 40


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class CNP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.encoder = mlp(2, dim, dim, dim)
        self.decoder = mlp(dim + 1, dim, dim, 2)

    def forward(
        self, x_context: torch.Tensor, y_context: torch.Tensor, x_target: torch.Tensor
    ) -> Normal:
        r = self.encoder(torch.cat([x_context, y_context], -1)).mean(1, keepdim=True)
        out = self.decoder(torch.cat([r.expand(-1, x_target.shape[1], -1), x_target], -1))
        mean, log_sigma = out.chunk(2, -1)
        return Normal(mean, 0.05 + 0.95 * nn.functional.softplus(log_sigma))


def curves(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, POINTS, 1) * 4 - 2
    amplitude, phase = 0.5 + torch.rand(n, 1, 1), 2 * torch.pi * torch.rand(n, 1, 1)
    frequency = 1 + torch.rand(n, 1, 1)
    return x, amplitude * torch.sin(frequency * x + phase)


def train(watch: Watch, seed: int, dim: int = 96, lr: float = 2e-3, batch_size: int = 16) -> float:
    torch.manual_seed(seed)
    model = CNP(dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=4)
    monitor = watch(model, optimizer)
    recent = []
    for step in range(1200):
        x, y = curves(batch_size)
        context = int(torch.randint(3, 16, (1,)))
        distribution = model(x[:, :context], y[:, :context], x)
        loss = -distribution.log_prob(y).mean()
        monitor.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recent.append(loss.item())
        if step % 50 == 49:
            plateau.step(sum(recent) / len(recent))
            recent.clear()
    x, y = curves(500)
    with torch.no_grad():
        mean = model(x[:, :12], y[:, :12], x[:, 12:]).mean
    return float(((mean - y[:, 12:]) ** 2).mean() / y.var())


PROGRAM = Program(
    train,
    metric="squared error over the variance of new curves given 12 points",
    healthy=0.35,
    lower_is_better=True,
    settings=({"seed": 0}, {"seed": 1, "dim": 64}, {"seed": 2, "lr": 1e-3, "batch_size": 32}),
)
