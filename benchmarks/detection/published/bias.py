"""Biases that are missing, that drift, or that are pulled to zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from detection import data
from detection.bases import squared_error
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, balanced_error, mlp, sgd
from detection.published.register import published


@published(Class.BIAS, "F106", "DeepCrime, WRB remove_bias", "missing_output_bias loss_plateau")
def no_bias_for_an_offset_of_50(seed: int, repaired: bool) -> Program:
    x = torch.randn(1000, 5)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0], [1.0]]) + 50
    model = nn.Linear(5, 1, bias=repaired)
    samples = data.split(x, y, seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 0.05, sgd(), 300)


@published(Class.BIAS, "F128", "this project", "bias_drift class_collapse class_imbalance")
def bias_runs_to_the_class_of_99_percent(seed: int, repaired: bool) -> Program:
    y = torch.where(torch.rand(6000) < 0.99, 0, torch.randint(1, 10, (6000,)))
    x = torch.randn(6000, 4)
    x[torch.arange(6000), y % 4] += 0.5 * y
    samples, model = data.split(x, y, seed), mlp(4, 32, 10)
    if repaired:
        loss = CrossEntropy(weight=torch.tensor([0.01] + [1.0] * 9))
        return Program(model, samples, loss, balanced_error, 3e-3, steps=400, batch_size=256)
    return Program(model, samples, CrossEntropy(), balanced_error, 0.5, sgd(), 400)


class Normalised(nn.Module):
    """Two hidden layers with LayerNorm after each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm0 = nn.Linear(64, 64), nn.LayerNorm(64)
        self.second, self.norm1 = nn.Linear(64, 64), nn.LayerNorm(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm0(functional.relu(self.first(x)))
        return self.head(self.norm1(functional.relu(self.second(hidden))))  # type: ignore[no-any-return]


@published(Class.BIAS, "F130", "this project", "bias_regularised over_regularised")
def biases_and_gains_decay(seed: int, repaired: bool) -> Program:
    samples, optimizer = parts.digits(seed), matrices_decay if repaired else all_decay
    loss = CrossEntropy()
    return Program(Normalised(), samples, loss, loss, 1e-3, optimizer, 800, 64)


def all_decay(parameters: Any, lr: float) -> Optimizer:
    """AdamW with a decay of 1 on every parameter."""
    return AdamW(parameters, lr, weight_decay=1.0)


def matrices_decay(parameters: Any, lr: float) -> Optimizer:
    """AdamW with a decay of 0.01 on matrices and none on biases and gains."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr)


@published(Class.BIAS, "F132", "this project", "dead_relu bias_drift learning_rate_too_high")
def large_targets_at_a_rate_of_a_half(seed: int, repaired: bool) -> Program:
    x = torch.rand(1000, 6)
    y = 100 + 20 * x[:, :1] * x[:, 1:2] + 10 * torch.sin(6 * x[:, 2:3])
    samples = data.split(x, parts.standard(y) if repaired else y, seed)
    model, loss = mlp(6, 32, 32, 1), nn.MSELoss()
    if repaired:
        return Program(model, samples, loss, squared_error, 1e-2, steps=150)
    return Program(model, samples, loss, squared_error, 0.5, sgd(), 150)
