"""A small vision transformer on digits with mixup, label smoothing and a cosine schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from healthy.data import digits
from healthy.program import Program, Watch


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, dim * 3, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        qkv = self.to_qkv(self.norm(x)).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) * self.scale).softmax(-1)
        return self.to_out((attention @ v).transpose(1, 2).reshape(b, n, d))


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class ViT(nn.Module):
    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.to_patch_embedding = nn.Sequential(nn.Unfold(2, stride=2), nn.Flatten(2))
        self.patch_to_dim = nn.Linear(4, dim)
        self.pos_embedding = nn.Parameter(torch.randn(1, 17, dim) * 0.02)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, 4), FeedForward(dim)]) for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_to_dim(self.to_patch_embedding(images).transpose(1, 2))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embedding
        for attn, ff in self.layers:
            x = x + attn(x)
            x = x + ff(x)
        return self.head(x[:, 0])


def train(watch: Watch, seed: int, dim: int = 48, depth: int = 3, batch_size: int = 96) -> float:
    torch.manual_seed(seed)
    x_train, y_train, x_test, y_test = digits()
    x_train, x_test = (x_train - 0.5) / 0.5, (x_test - 0.5) / 0.5
    model = ViT(dim, depth)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    epochs = 14
    steps = epochs * math.ceil(len(x_train) / batch_size)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    beta = torch.distributions.Beta(0.4, 0.4)
    monitor = watch(model, optimizer)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x_train)).split(batch_size):
            x, y = x_train[rows], y_train[rows]
            lam, other = float(beta.sample()), torch.randperm(len(x))
            logits = model(lam * x + (1 - lam) * x[other])
            loss = lam * criterion(logits, y) + (1 - lam) * criterion(logits, y[other])
            optimizer.zero_grad()
            monitor.loss(loss).backward()
            optimizer.step()
            scheduler.step()
    model.eval()
    with torch.no_grad():
        return float((model(x_test).argmax(1) == y_test).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy, chance 0.1",
    healthy=0.85,
    settings=({"seed": 0}, {"seed": 1, "dim": 64, "depth": 2}, {"seed": 2, "batch_size": 48}),
)
