"""Matrix factorisation with a pairwise ranking loss (BPR), sparse gradients and SparseAdam."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch

USERS, ITEMS = 400, 300


class BPRMF(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.user = nn.Embedding(USERS, dim, sparse=True)
        self.item = nn.Embedding(ITEMS, dim, sparse=True)
        nn.init.normal_(self.user.weight, std=0.1)
        nn.init.normal_(self.item.weight, std=0.1)

    def forward(
        self, u: torch.Tensor, i: torch.Tensor, j: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        user, liked, other = self.user(u), self.item(i), self.item(j)
        penalty = (user**2).mean() + (liked**2).mean() + (other**2).mean()
        return (user * (liked - other)).sum(1), penalty


def interactions() -> tuple[torch.Tensor, torch.Tensor]:
    """Return (pairs, taste): what each user has chosen, and the true scores."""
    taste = torch.randn(USERS, 4) @ torch.randn(4, ITEMS)
    liked = torch.rand(USERS, ITEMS) < 0.25 * torch.sigmoid(2 * taste - 1)
    return liked.nonzero(), taste


def train(watch: Watch, seed: int, dim: int = 16, lr: float = 5e-3, batch_size: int = 512) -> float:
    torch.manual_seed(seed)
    chosen, taste = interactions()
    model = BPRMF(dim)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=lr)
    monitor = watch(model, optimizer)
    for _ in range(50):
        for rows in torch.randperm(len(chosen)).split(batch_size):
            u, i = chosen[rows].T
            j = torch.randint(ITEMS, (len(rows),))
            difference, penalty = model(u, i, j)
            loss = -F.logsigmoid(difference).mean() + 0.05 * penalty
            monitor.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        scores = model.user.weight @ model.item.weight.T
    unseen = torch.ones(USERS, ITEMS, dtype=torch.bool)
    unseen[chosen[:, 0], chosen[:, 1]] = False
    a, b = torch.randint(ITEMS, (2, USERS, 2000))
    rows = torch.arange(USERS)[:, None]
    kept = unseen[rows, a] & unseen[rows, b] & ((taste[rows, a] - taste[rows, b]).abs() > 1)
    right = (scores[rows, a] > scores[rows, b]) == (taste[rows, a] > taste[rows, b])
    return float(right[kept].float().mean())


PROGRAM = Program(
    train,
    metric="share of unseen pairs in the right order, 0.5 by chance",
    healthy=0.75,
    settings=({"seed": 0}, {"seed": 1, "dim": 8, "lr": 1e-2}, {"seed": 2, "batch_size": 1024}),
)
