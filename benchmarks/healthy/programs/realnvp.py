"""A RealNVP flow on small moons; the negative log-likelihood falls below zero."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import make_moons
from torch import nn

from healthy.program import Program, Watch


class Coupling(nn.Module):
    """An affine coupling layer: one half scales and shifts the other."""

    def __init__(self, width: int, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(
            nn.Linear(1, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(),
            nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = x.chunk(2, dim=1)
        if self.flip:
            a, b = b, a
        s, t = self.net(a).chunk(2, dim=1)
        s = 2 * torch.tanh(s)
        b = b * s.exp() + t
        return torch.cat([b, a] if self.flip else [a, b], dim=1), s.sum(1)


class RealNVP(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.flows = nn.ModuleList(Coupling(width, flip=i % 2 == 1) for i in range(depth))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(x))
        for flow in self.flows:
            x, log_det = flow(x)
            total = total + log_det
        return total - 0.5 * (x**2).sum(1) - math.log(2 * math.pi)


def sample(n: int, seed: int) -> torch.Tensor:
    points, _ = make_moons(n, noise=0.06, random_state=seed)
    return torch.tensor((points - [0.5, 0.25]) * 0.3, dtype=torch.float32)


def train(watch: Watch, seed: int, width: int = 64, depth: int = 8, batch_size: int = 256) -> float:
    torch.manual_seed(seed)
    flow = RealNVP(width, depth)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 700)
    monitor = watch(flow, optimizer)
    data = sample(8192, seed)
    for _ in range(700):
        batch = data[torch.randint(len(data), (batch_size,))]
        loss = -flow.log_prob(batch).mean()
        optimizer.zero_grad()
        monitor.loss(loss)
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return float(-flow.log_prob(sample(2000, 1000 + seed)).mean())


PROGRAM = Program(
    train,
    metric="negative log-likelihood of test points in nats",
    healthy=-1.2,
    lower_is_better=True,
    settings=(
        {"seed": 0},
        {"seed": 1, "width": 128, "depth": 6},
        {"seed": 2, "batch_size": 64},
    ),
)
