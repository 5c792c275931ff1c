"""A Wasserstein GAN with gradient penalty on a ring of Gaussians; five critic steps for one."""

from __future__ import annotations

import math

import torch
from torch import autograd, nn, optim

from healthy.program import Program, Watch

LAMBDA, CRITIC_ITERS = 0.1, 5


def mlp(fan_in: int, dim: int, fan_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(fan_in, dim), nn.ReLU(True),
        nn.Linear(dim, dim), nn.ReLU(True),
        nn.Linear(dim, dim), nn.ReLU(True),
        nn.Linear(dim, fan_out),
    )  # fmt: skip


def ring(n: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.randint(8, (n,)) / 8
    return torch.stack([angle.cos(), angle.sin()], 1) * 1.4 + 0.05 * torch.randn(n, 2)


def gradient_penalty(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    alpha = torch.rand(len(real), 1)
    between = (alpha * real + (1 - alpha) * fake).requires_grad_()
    gradients = autograd.grad(critic(between).sum(), between, create_graph=True)[0]
    return LAMBDA * ((gradients.norm(2, dim=1) - 1) ** 2).mean()


def train(
    watch: Watch, seed: int, dim: int = 128, batch_size: int = 128, lr: float = 1e-3
) -> float:
    torch.manual_seed(seed)
    generator, critic = mlp(2, dim, 2), mlp(2, dim, 1)
    optimizer_d = optim.Adam(critic.parameters(), lr=lr, betas=(0.5, 0.9))
    optimizer_g = optim.Adam(generator.parameters(), lr=lr, betas=(0.5, 0.9))
    monitor = watch({"critic": critic, "generator": generator}, [optimizer_d, optimizer_g])
    for _ in range(360):
        for _ in range(CRITIC_ITERS):
            real = ring(batch_size)
            with torch.no_grad():
                fake = generator(torch.randn(batch_size, 2))
            critic.zero_grad()
            wasserstein = critic(fake).mean() - critic(real).mean()
            d_cost = wasserstein + gradient_penalty(critic, real, fake)
            monitor.loss(d_cost)
            d_cost.backward()
            optimizer_d.step()
        generator.zero_grad()
        g_cost = -critic(generator(torch.randn(batch_size, 2))).mean()
        g_cost.backward()
        optimizer_g.step()
    with torch.no_grad():
        made = generator(torch.randn(1000, 2))
    centres = torch.arange(8) * 2 * math.pi / 8
    centres = torch.stack([centres.cos(), centres.sin()], 1) * 1.4
    near = torch.cdist(made, centres).min(1)
    hits = near.values < 0.25
    # Each of the eight modes must be hit, and most points must lie on one.
    return float(hits.float().mean()) * len(near.indices[hits].unique()) / 8


PROGRAM = Program(
    train,
    metric="share of generated points on a mode times share of modes found",
    healthy=0.6,
    settings=({"seed": 0}, {"seed": 1, "lr": 2e-3}),
)
