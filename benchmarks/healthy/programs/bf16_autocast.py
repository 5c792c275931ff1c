"""A ConvNeXt-like network under bfloat16 autocast, with accumulated gradients and layer scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.data import digits
from healthy.program import Program, Watch


class Block(nn.Module):
    def __init__(self, dim: int, layer_scale: float = 1e-2) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(layer_scale * torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, dim, 2, 2)
        self.stages = nn.Sequential(*[Block(dim) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                nn.init.zeros_(m.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.stages(self.stem(x)).mean((2, 3))))


def train(watch: Watch, seed: int, dim: int = 24, accumulate: int = 2, depth: int = 2) -> float:
    torch.manual_seed(seed)
    x_train, y_train, x_test, y_test = digits()
    x_train, x_test = (x_train - 0.3) / 0.38, (x_test - 0.3) / 0.38
    model = ConvNeXt(dim, depth)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    monitor = watch(model, optimizer)
    for _ in range(10):
        model.train()
        optimizer.zero_grad()
        for i, rows in enumerate(torch.randperm(len(x_train)).split(32)):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = model(x_train[rows])
                loss = F.cross_entropy(output, y_train[rows])
            monitor.loss(loss)
            (loss / accumulate).backward()
            if (i + 1) % accumulate == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        return float((model(x_test).argmax(1) == y_test).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy, chance 0.1",
    healthy=0.8,
    settings=({"seed": 0}, {"seed": 1, "accumulate": 4}),
)
