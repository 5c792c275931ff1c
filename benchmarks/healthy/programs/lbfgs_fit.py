"""L-BFGS with a closure fits a smooth surface on all points at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch


def surface(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, 2) * 4 - 2
    y = torch.sin(2 * x[:, :1]) * torch.cos(x[:, 1:]) + 0.3 * x[:, 1:] ** 2
    return x, y + 0.02 * torch.randn(n, 1)


def train(
    watch: Watch, seed: int, hidden: int = 40, max_iter: int = 10, points: int = 1500
) -> float:
    torch.manual_seed(seed)
    x_train, y_train = surface(points)
    net = nn.Sequential(
        nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)
    ).double()
    x_train, y_train = x_train.double(), y_train.double()
    optimizer = torch.optim.LBFGS(
        net.parameters(), lr=1.0, max_iter=max_iter, line_search_fn="strong_wolfe"
    )
    monitor = watch(net, optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(net(x_train), y_train)
        monitor.loss(loss)
        loss.backward()
        return loss

    for _ in range(120):
        optimizer.step(closure)
    x, y = surface(2000)
    with torch.no_grad():
        return float(F.mse_loss(net(x.double()), y.double()) / y.var())


PROGRAM = Program(
    train,
    metric="squared error over the variance of test points",
    healthy=0.02,
    lower_is_better=True,
    settings=({"seed": 0}, {"seed": 1, "hidden": 24}, {"seed": 2, "max_iter": 5, "points": 600}),
)
