"""A graph attention network classifies nodes of a generated graph; 8 labels for each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch

NODES, CLASSES, FEATURES = 320, 4, 64


class GraphAttention(nn.Module):
    """One head; `adjacency` is dense, with self-loops."""

    def __init__(self, fan_in: int, fan_out: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.W = nn.Parameter(torch.empty(fan_in, fan_out))
        self.a = nn.Parameter(torch.empty(2 * fan_out, 1))
        nn.init.xavier_uniform_(self.W, gain=1.414)
        nn.init.xavier_uniform_(self.a, gain=1.414)

    def forward(self, h: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        wh = h @ self.W
        size = wh.shape[1]
        e = F.leaky_relu(wh @ self.a[:size] + (wh @ self.a[size:]).T, 0.2)
        attention = torch.where(adjacency, e, torch.full_like(e, -9e15)).softmax(1)
        attention = F.dropout(attention, self.dropout, training=self.training)
        return attention @ wh


class GAT(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.attentions = nn.ModuleList(
            GraphAttention(FEATURES, hidden, dropout) for _ in range(heads)
        )
        self.out_att = GraphAttention(hidden * heads, CLASSES, dropout)

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        x = F.dropout(x, self.dropout, training=self.training)
        x = torch.cat([F.elu(att(x, adjacency)) for att in self.attentions], dim=1)
        x = F.dropout(x, self.dropout, training=self.training)
        return F.log_softmax(self.out_att(x, adjacency), dim=1)


def communities(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (features, adjacency, labels) of a stochastic block model with noisy features."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (NODES,), generator=generator)
    same = labels[:, None] == labels[None]
    draw = torch.rand(NODES, NODES, generator=generator).triu(1)
    edge = (draw < torch.where(same, 0.06, 0.008)) & (draw > 0)
    adjacency = edge | edge.T | torch.eye(NODES, dtype=torch.bool)
    words = torch.rand(CLASSES, FEATURES, generator=generator) * 0.2
    return torch.bernoulli(words[labels] + 0.04, generator=generator), adjacency, labels


def train(watch: Watch, seed: int, heads: int = 4, dropout: float = 0.6, lr: float = 5e-3) -> float:
    torch.manual_seed(seed)
    features, adjacency, labels = communities(seed)
    features = features / features.sum(1, keepdim=True).clamp(min=1)
    known = torch.cat([(labels == c).nonzero()[:8, 0] for c in range(CLASSES)])
    test = torch.ones(NODES, dtype=torch.bool)
    test[known] = False
    model = GAT(8, heads, dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=5e-4)
    monitor = watch(model, optimizer)
    for _ in range(200):
        model.train()
        optimizer.zero_grad()
        output = model(features, adjacency)
        loss_train = monitor.loss(F.nll_loss(output[known], labels[known]))
        loss_train.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        output = model(features, adjacency)
    return float((output[test].argmax(1) == labels[test]).float().mean())


PROGRAM = Program(
    train,
    metric="accuracy on nodes without a label",
    healthy=0.7,
    settings=({"seed": 0}, {"seed": 1, "heads": 2, "dropout": 0.3}, {"seed": 2, "lr": 1e-2}),
)
