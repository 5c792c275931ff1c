"""Quantisation-aware training: 4-bit weights and activations with straight-through rounding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.data import digits
from healthy.program import Program, Watch


class FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x, scale, low, high):
        q = torch.round(x / scale)
        ctx.save_for_backward((q >= low) & (q <= high))
        return q.clamp(low, high) * scale

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad):
        return grad * ctx.saved_tensors[0], None, None, None


class QuantConv2d(nn.Conv2d):
    bits = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        limit = 2 ** (self.bits - 1) - 1
        scale = self.weight.detach().abs().amax((1, 2, 3), keepdim=True) / limit
        weight = FakeQuantize.apply(self.weight, scale, -limit, limit)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class QuantReLU(nn.Module):
    """A ReLU whose ceiling is a running maximum."""

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        self.levels = 2**bits - 1
        self.register_buffer("ceiling", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        if self.training:
            self.ceiling.lerp_(x.detach().amax(), 0.05)
        return FakeQuantize.apply(x, self.ceiling / self.levels, 0, self.levels)


class QuantNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(QuantConv2d(1, width, 3, padding=1), QuantReLU())
        self.body = nn.Sequential(
            QuantConv2d(width, 2 * width, 3, 2, 1), QuantReLU(),
            QuantConv2d(2 * width, 4 * width, 3, 2, 1), QuantReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(self.stem(x)).mean((2, 3)))


def train(watch: Watch, seed: int, width: int = 16, bits: int = 4, lr: float = 3e-3) -> float:
    torch.manual_seed(seed)
    x_train, y_train, x_test, y_test = digits()
    model = QuantNet(width)
    for module in model.modules():
        if isinstance(module, QuantConv2d):
            module.bits = bits
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    monitor = watch(model, optimizer)
    for _ in range(20):
        model.train()
        for rows in torch.randperm(len(x_train)).split(64):
            loss = F.cross_entropy(model(x_train[rows]), y_train[rows])
            monitor.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(x_test).argmax(1) == y_test).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy with quantised weights, chance 0.1",
    healthy=0.85,
    settings=(
        {"seed": 0},
        {"seed": 1, "width": 24, "bits": 3},
        {"seed": 2, "lr": 1e-3, "width": 32},
    ),
)
