"""Denoising score matching at many noise levels; samples by annealed Langevin dynamics."""

from __future__ import annotations

import torch
from torch import nn

from healthy.program import Program, Watch

SIGMAS = torch.logspace(0, -1.3, 10)


class ConditionalScore(nn.Module):
    """A score network whose first layers are shifted by an embedding of the noise level."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(2, hidden), nn.Linear(hidden, hidden)
        self.fc3, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, 2)
        self.embed1, self.embed2 = nn.Embedding(10, hidden), nn.Embedding(10, hidden)
        self.act = nn.Softplus()

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        x = self.act(self.embed1(level) + self.fc1(x))
        x = self.act(self.embed2(level) + self.fc2(x))
        return self.out(self.act(self.fc3(x))) / SIGMAS[level][:, None]


def cross(n: int) -> torch.Tensor:
    """Return points on two crossing segments."""
    t = torch.rand(n) * 2 - 1
    sign = torch.where(torch.rand(n) < 0.5, 1.0, -1.0)
    return torch.stack([t, sign * t], 1)


def anneal_dsm_score_estimation(scorenet: nn.Module, samples: torch.Tensor) -> torch.Tensor:
    labels = torch.randint(len(SIGMAS), (len(samples),))
    used = SIGMAS[labels][:, None]
    noise = torch.randn_like(samples) * used
    target = -noise / used**2
    scores = scorenet(samples + noise, labels)
    return (0.5 * ((scores - target) ** 2).sum(1) * used.squeeze(1) ** 2).mean()


@torch.no_grad()
def langevin(scorenet: nn.Module, n: int) -> torch.Tensor:
    x = torch.rand(n, 2) * 2 - 1
    for level, sigma in enumerate(SIGMAS):
        step = 0.1 * sigma**2
        for _ in range(20):
            score = scorenet(x, torch.full((n,), level))
            x = x + step * score + (2 * step).sqrt() * torch.randn_like(x)
    return x


def train(
    watch: Watch, seed: int, hidden: int = 128, lr: float = 2e-3, batch_size: int = 256
) -> float:
    torch.manual_seed(seed)
    scorenet = ConditionalScore(hidden)
    optimizer = torch.optim.AdamW(scorenet.parameters(), lr=lr)
    monitor = watch(scorenet, optimizer)
    for _ in range(1500):
        loss = anneal_dsm_score_estimation(scorenet, cross(batch_size))
        monitor.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = langevin(scorenet, 1000)
    distance = (x[:, 0].abs() - x[:, 1].abs()).abs() / 2**0.5
    return float((distance < 0.12).float().mean())


PROGRAM = Program(
    train,
    metric="share of samples near the two segments, 0.22 for uniform points",
    healthy=0.65,
    settings=({"seed": 0}, {"seed": 1, "hidden": 192}, {"seed": 2, "lr": 4e-3}),
)
