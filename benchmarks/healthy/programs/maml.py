"""MAML: second-order gradients through one inner step, on regressions of sine waves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from healthy.program import Program, Watch

SHOTS = 10


class SineModel(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(1, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.hidden3 = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.hidden1(x))
        return self.hidden3(F.relu(self.hidden2(x)))


def task() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 2 × SHOTS points of one sine wave with its own amplitude and phase."""
    amplitude, phase = 0.5 + 2 * torch.rand(1), torch.pi * torch.rand(1)
    x = torch.rand(2 * SHOTS, 1) * 10 - 5
    return x, amplitude * torch.sin(x + phase)


def adapted(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, lr: float, steps: int = 1
) -> dict[str, torch.Tensor]:
    weights = dict(model.named_parameters())
    for _ in range(steps):
        loss = F.mse_loss(functional_call(model, weights, (x,)), y)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {
            name: w - lr * g for (name, w), g in zip(weights.items(), gradients, strict=True)
        }
    return weights


def train(
    watch: Watch, seed: int, hidden: int = 40, meta_lr: float = 2e-3, tasks: int = 8
) -> float:
    torch.manual_seed(seed)
    model, inner_lr = SineModel(hidden), 0.02
    optimiser = torch.optim.Adam(model.parameters(), lr=meta_lr)
    monitor = watch(model, optimiser)
    for _ in range(700):
        meta_loss = torch.zeros(())
        for _ in range(tasks):
            x, y = task()
            weights = adapted(model, x[:SHOTS], y[:SHOTS], inner_lr)
            meta_loss = meta_loss + F.mse_loss(
                functional_call(model, weights, (x[SHOTS:],)), y[SHOTS:]
            )
        meta_loss = meta_loss / tasks
        monitor.loss(meta_loss)
        optimiser.zero_grad()
        meta_loss.backward()
        optimiser.step()
    before, after = 0.0, 0.0
    for _ in range(100):
        x, y = task()
        weights = adapted(model, x[:SHOTS], y[:SHOTS], inner_lr, steps=5)
        before += float((y[SHOTS:] ** 2).mean())
        after += float(
            F.mse_loss(functional_call(model, weights, (x[SHOTS:],)), y[SHOTS:]).detach()
        )
    return after / before


PROGRAM = Program(
    train,
    metric="squared error on new waves after five inner steps over that of zero",
    healthy=0.5,
    lower_is_better=True,
    settings=({"seed": 0}, {"seed": 1, "hidden": 64}),
)
