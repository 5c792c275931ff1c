"""A mixture density network learns an inverse problem with several answers."""

from __future__ import annotations

import math

import torch
from torch import nn

from healthy.program import Program, Watch


class MDN(nn.Module):
    def __init__(self, hidden: int, mixtures: int) -> None:
        super().__init__()
        self.z_h = nn.Sequential(
            nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        )
        self.z_pi = nn.Linear(hidden, mixtures)
        self.z_mu = nn.Linear(hidden, mixtures)
        self.z_sigma = nn.Linear(hidden, mixtures)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.z_h(x)
        return self.z_pi(h).softmax(-1), self.z_sigma(h).exp(), self.z_mu(h)


def mdn_loss_fn(
    y: torch.Tensor, pi: torch.Tensor, sigma: torch.Tensor, mu: torch.Tensor
) -> torch.Tensor:
    density = torch.exp(-0.5 * ((y - mu) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return -torch.log((pi * density).sum(1) + 1e-8).mean()


def arm(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (x, y), where x is a function of y, and y has up to three values for one x."""
    y = torch.rand(n, 1)
    x = y + 0.3 * torch.sin(2 * math.pi * y) + 0.02 * torch.randn(n, 1)
    return x, y


def train(
    watch: Watch, seed: int, hidden: int = 32, mixtures: int = 5, batch_size: int = 256
) -> float:
    torch.manual_seed(seed)
    network = MDN(hidden, mixtures)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    monitor = watch(network, optimizer)
    x_train, y_train = arm(4000)
    for _ in range(1500):
        rows = torch.randint(len(x_train), (batch_size,))
        pi, sigma, mu = network(x_train[rows])
        loss = mdn_loss_fn(y_train[rows], pi, sigma, mu)
        monitor.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = arm(2000)
    with torch.no_grad():
        return float(mdn_loss_fn(y, *network(x)))


PROGRAM = Program(
    train,
    metric="negative log-likelihood of test points in nats, 0 for a uniform density",
    healthy=-0.7,
    lower_is_better=True,
    settings=({"seed": 0}, {"seed": 1, "hidden": 48}, {"seed": 2, "batch_size": 64}),
)
