"""A sparsely gated mixture of experts: noisy top-k gating and a loss that balances the load."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch

FEATURES, CLASSES = 16, 6


class MoE(nn.Module):
    def __init__(self, experts: int, hidden: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
            for _ in range(experts)
        )
        self.w_gate = nn.Parameter(torch.zeros(hidden, experts))
        self.w_noise = nn.Parameter(torch.zeros(hidden, experts))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = x @ self.w_gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(x @ self.w_noise) + 1e-2)
        top, chosen = logits.topk(self.k, dim=1)
        gates = torch.zeros_like(logits).scatter(1, chosen, top.softmax(1))
        output = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = gates[:, i].nonzero()[:, 0]
            if len(rows):
                output = output.index_add(0, rows, gates[rows, i, None] * expert(x[rows]))
        importance = gates.sum(0)
        return output, importance.var() / (importance.mean() ** 2 + 1e-10)


class Net(nn.Module):
    def __init__(self, experts: int, hidden: int, k: int) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, hidden)
        self.moe = MoE(experts, hidden, k)
        self.out = nn.Linear(hidden, CLASSES)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.tanh(self.embed(x))
        y, balance = self.moe(h)
        return self.out(h + y), balance


def regions(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points whose label follows another linear rule in each of four regions."""
    rules = torch.randn(4, FEATURES, CLASSES, generator=torch.Generator().manual_seed(seed))
    x = torch.randn(n, FEATURES)
    region = 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return x, torch.einsum("nf,nfc->nc", x, rules[region]).argmax(1)


def train(watch: Watch, seed: int, experts: int = 6, k: int = 2, batch_size: int = 128) -> float:
    torch.manual_seed(seed)
    model = Net(experts, 48, k)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    monitor = watch(model, optimizer)
    model.train()
    for _ in range(600):
        x, y = regions(batch_size, seed)
        logits, balance = model(x)
        total_loss = F.cross_entropy(logits, y) + 1e-2 * balance
        monitor.loss(total_loss)
        optimizer.zero_grad()
        total_loss.backward()
        optimizer.step()
    model.eval()
    x, y = regions(3000, seed)
    with torch.no_grad():
        return float((model(x)[0].argmax(1) == y).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy, chance 0.17",
    healthy=0.55,
    settings=({"seed": 0}, {"seed": 1, "experts": 8, "k": 1}, {"seed": 2, "batch_size": 256}),
)
