"""DANN: a gradient reversal layer makes the features of digits on two backgrounds alike."""

from __future__ import annotations

import math

import torch
from torch import nn

from healthy.data import digits
from healthy.program import Program, Watch


class ReverseLayerF(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, alpha: float) -> torch.Tensor:
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad.neg() * ctx.alpha, None


class DANN(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.feature = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.Dropout2d(0.1),
            nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.class_classifier = nn.Sequential(
            nn.Linear(4 * width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10),
            nn.LogSoftmax(dim=1),
        )  # fmt: skip
        self.domain_classifier = nn.Sequential(
            nn.Linear(4 * width, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2),
            nn.LogSoftmax(dim=1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
        feature = self.feature(x)
        reverse = ReverseLayerF.apply(feature, alpha)
        return self.class_classifier(feature), self.domain_classifier(reverse)


def with_background(x: torch.Tensor) -> torch.Tensor:
    return (x - 0.35 * torch.rand(len(x), 1, 8, 1)).abs()


def train(
    watch: Watch, seed: int, width: int = 24, weight: float = 0.5, batch_size: int = 64
) -> float:
    torch.manual_seed(seed)
    x_train, y_train, x_test, y_test = digits()
    half = len(x_train) // 2
    source, labels, target = x_train[:half], y_train[:half], with_background(x_train[half:])
    net = DANN(width)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    criterion = nn.NLLLoss()
    monitor = watch(net, optimizer)
    epochs = 30
    for epoch in range(epochs):
        net.train()
        alpha = 2.0 / (1.0 + math.exp(-10 * epoch / epochs)) - 1
        for rows in torch.randperm(half).split(batch_size):
            net.zero_grad()
            class_output, domain_output = net(source[rows], alpha)
            err_s_label = criterion(class_output, labels[rows])
            err_s_domain = criterion(domain_output, torch.zeros(len(rows), dtype=torch.long))
            others = target[torch.randint(len(target), (len(rows),))]
            _, domain_output = net(others, alpha)
            err_t_domain = criterion(domain_output, torch.ones(len(rows), dtype=torch.long))
            err = err_s_label + weight * (err_t_domain + err_s_domain)
            monitor.loss(err)
            err.backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        output, _ = net(with_background(x_test), 0.0)
    return float((output.argmax(1) == y_test).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy in the domain without labels, chance 0.1",
    healthy=0.8,
    settings=({"seed": 0}, {"seed": 1, "width": 32}, {"seed": 2, "weight": 0.2, "batch_size": 32}),
)
