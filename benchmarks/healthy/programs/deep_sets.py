"""Deep Sets: the main axis of a set of points, by permutation-equivariant layers; an L1 loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch


class PermEqui(nn.Module):
    """A layer that subtracts the maximum over the set."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.Gamma = nn.Linear(fan_in, fan_out)
        self.Lambda = nn.Linear(fan_in, fan_out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.Gamma(x) - self.Lambda(x.max(1, keepdim=True).values)


class DeepSet(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.phi = nn.Sequential(
            PermEqui(2, dim), nn.ELU(inplace=True), PermEqui(dim, dim), nn.ELU(inplace=True)
        )
        self.rho = nn.Sequential(nn.Linear(dim, dim), nn.ELU(inplace=True), nn.Linear(dim, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rho(self.phi(x).mean(1)).squeeze(1)


def clouds(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sets of 16 correlated points, and the angle of their main axis as its cosine."""
    angle = torch.rand(n) * torch.pi
    axis = torch.stack([angle.cos(), angle.sin()], 1)
    across = torch.stack([-angle.sin(), angle.cos()], 1)
    along = torch.randn(n, 16, 1) * axis[:, None]
    return along + 0.25 * torch.randn(n, 16, 1) * across[:, None], torch.cos(2 * angle)


def train(watch: Watch, seed: int, dim: int = 64, lr: float = 2e-3, batch_size: int = 64) -> float:
    torch.manual_seed(seed)
    model = DeepSet(dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=1e-7, eps=1e-3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [400, 550], gamma=0.1)
    monitor = watch(model, optimizer)
    for _ in range(650):
        x, y = clouds(batch_size)
        loss = F.l1_loss(model(x), y)
        optimizer.zero_grad()
        monitor.loss(loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
    x, y = clouds(2000)
    with torch.no_grad():
        return float(F.l1_loss(model(x), y) / (y - y.median()).abs().mean())


PROGRAM = Program(
    train,
    metric="absolute error over that of the median, on test sets",
    healthy=0.4,
    lower_is_better=True,
    settings=({"seed": 0}, {"seed": 1, "dim": 96}, {"seed": 2, "lr": 5e-3, "batch_size": 128}),
)
