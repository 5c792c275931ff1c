"""SAM: two backward passes for each update, around any optimizer, on a residual network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from healthy.data import digits
from healthy.program import Program, Watch


class SAM(torch.optim.Optimizer):
    """The wrapper of public examples: `first_step` climbs, `second_step` returns and updates."""

    def __init__(
        self, params: Iterable[nn.Parameter], base: type, rho: float = 0.05, **options: Any
    ) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        norms = [p.grad.norm() for g in self.param_groups for p in g["params"]]
        for group in self.param_groups:
            scale = group["rho"] / (torch.stack(norms).norm() + 1e-12)
            for p in group["params"]:
                self.state[p]["old_p"] = p.data.clone()
                p.add_(p.grad * scale)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> None:
        raise NotImplementedError("Call first_step and second_step.")


class BasicBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def train(watch: Watch, seed: int, rho: float = 0.05, width: int = 16, lr: float = 0.1) -> float:
    torch.manual_seed(seed)
    x_train, y_train, x_test, y_test = digits()
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), BasicBlock(width), BasicBlock(width),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10),
    )  # fmt: skip
    optimizer = SAM(
        model.parameters(), torch.optim.SGD, rho=rho, lr=lr, momentum=0.9, weight_decay=5e-4
    )
    monitor = watch(model, optimizer.base_optimizer)
    for _ in range(5):
        model.train()
        for rows in torch.randperm(len(x_train)).split(64):
            x, y = x_train[rows], y_train[rows]
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
            monitor.loss(loss)
            loss.backward()
            optimizer.first_step()
            F.cross_entropy(model(x), y, label_smoothing=0.1).backward()
            optimizer.second_step()
    model.eval()
    with torch.no_grad():
        return float((model(x_test).argmax(1) == y_test).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy, chance 0.1",
    healthy=0.9,
    settings=({"seed": 0}, {"seed": 1, "width": 24, "lr": 0.05}, {"seed": 2, "rho": 0.1}),
)
