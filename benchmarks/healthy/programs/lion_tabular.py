"""An own optimizer class (Lion) trains a residual tabular network with numerical embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import nn

from healthy.program import Program, Watch


class Lion(torch.optim.Optimizer):
    """The sign of an interpolated momentum. Source: Chen et al., 2023, arXiv:2302.06675."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> None:
        if closure is not None:
            raise NotImplementedError("Lion takes no closure.")
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in filter(lambda p: p.grad is not None, group["params"]):
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_((state["exp_avg"] * beta1 + p.grad * (1 - beta1)).sign(), alpha=-group["lr"])
                state["exp_avg"].mul_(beta2).add_(p.grad, alpha=1 - beta2)


class TabularResNet(nn.Module):
    def __init__(self, features: int, width: int, blocks: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(features, 4) * 0.5)
        self.first = nn.Linear(8 * features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(0.1),
                nn.Linear(2 * width, width),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angle = x[:, :, None] * self.frequencies
        x = self.first(torch.cat([angle.sin(), angle.cos()], 2).flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def train(
    watch: Watch, seed: int, width: int = 64, lr: float = 3e-4, batch_size: int = 64
) -> float:
    torch.manual_seed(seed)
    features, labels = load_breast_cancer(return_X_y=True)
    x, y = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train_rows, test_rows = order[150:], order[:150]
    x = (x - x[train_rows].mean(0)) / x[train_rows].std(0)
    model = TabularResNet(x.shape[1], width, 3)
    optimizer = Lion(model.parameters(), lr=lr, weight_decay=0.1)
    monitor = watch(model, optimizer)
    for _ in range(40):
        model.train()
        for rows in train_rows[torch.randperm(len(train_rows))].split(batch_size):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            monitor.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(x[test_rows]).argmax(1) == y[test_rows]).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy, 0.63 for the larger class",
    healthy=0.9,
    settings=({"seed": 0}, {"seed": 1, "width": 96}, {"seed": 2, "lr": 1e-4, "batch_size": 32}),
)
