"""Optimizers, rates and schedules that do not fit, after questions and issues on PyTorch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, lr_scheduler

from detection import data, models
from detection.bases import TokenLoss, error_rate, squared_error, token_loss
from detection.case import Class
from detection.program import Data, Program
from detection.published.fourth.rates import Ratings, ratings
from detection.published.parts import CrossEntropy, mlp, sgd
from detection.published.register import published

OPTIMIZER = Class.OPTIMIZER


def accumulated(program: Program, optimizer: Any, monitor: Any, _: int, *, divided: bool) -> None:
    """Train one step on sixteen micro-batches, with or without dividing their losses."""
    optimizer.zero_grad()
    for _ in range(16):
        chosen = torch.randint(len(program.data.x), (program.batch_size,))
        loss = program.loss(program.model(program.data.x[chosen]), program.data.y[chosen])
        (monitor.loss(loss) / (16 if divided else 1)).backward()
    optimizer.step()


@published(
    OPTIMIZER,
    "T10",
    "ApolloResearch/e2e_sae#70",
    "learning_rate_too_high loss_divergence exploding_gradient dead_relu",
)
def sixteen_losses_not_divided(seed: int, repaired: bool) -> Program:
    model, samples = mlp(10, 64, 64, 1), data.friedman(seed)
    program = Program(model, samples, nn.MSELoss(), squared_error, 0.05, sgd(), 120, 16)
    program.step = partial(accumulated, divided=repaired)
    return program


@published(
    OPTIMIZER,
    "T11",
    "common question, LSTM with SGD at a rate of 2 and momentum",
    "learning_rate_too_high loss_divergence loss_oscillation saturated_activation",
)
def recurrent_network_at_a_rate_of_two(seed: int, repaired: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 1, 32, 1, every=True)
    rate = 0.05 if repaired else 2.0
    return Program(model, data.waves(seed), nn.MSELoss(), squared_error, rate, sgd(0.9), 250)


@published(
    OPTIMIZER,
    "T12",
    "common question, recommender with Adam and weight_decay=0.1 predicts the mean",
    "over_regularised loss_plateau constant_prediction",
)
def decay_of_a_tenth_inside_adam(seed: int, repaired: bool) -> Program:
    samples, model = ratings(seed), Ratings(100, 60, 4)
    decay = 1e-4 if repaired else 0.1
    program = Program(model, samples, functional.mse_loss, squared_error, 0.01, Adam, 400, 128)
    program.optimizer = lambda parameters, lr: Adam(parameters, lr, weight_decay=decay)
    return program


@published(
    OPTIMIZER,
    "T13",
    "common question, StepLR(step_size=1) with the default gamma",
    "schedule_ended_early learning_rate_too_low undertrained",
)
def rate_divided_by_ten_after_each_epoch(seed: int, repaired: bool) -> Program:
    samples = data.shapes(seed)
    program = Program(models.ResNet(4), samples, CrossEntropy(), error_rate, 5e-3, sgd(0.9), 240)
    epochs = 6 if repaired else 1
    program.schedule = lambda optimizer, _: lr_scheduler.StepLR(optimizer, 20 * epochs, 0.1)
    return program


class Sine(nn.Module):
    """A linear layer and a sine of 30 times its output, initialised after Sitzmann et al."""

    def __init__(self, inputs: int, outputs: int, *, first: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        limit = 1 / inputs if first else math.sqrt(6 / inputs) / 30
        nn.init.uniform_(self.linear.weight, -limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        return (30 * self.linear(x)).sin()  # type: ignore[no-any-return]


def surface(seed: int) -> Data:
    """Points of the square from -1 to 1, and the brightness of a picture of waves there."""
    x = 2 * torch.rand(3000, 2) - 1
    phase = 6.3 * torch.rand(2)
    y = (12 * x[:, :1] + phase[0]).sin() * (9 * x[:, 1:] + phase[1]).cos()
    return data.split(x, y, seed)


@published(
    OPTIMIZER,
    "T14",
    "vsitzmann/siren#19",
    "learning_rate_too_high loss_divergence loss_plateau overfitting",
)
def sines_at_a_rate_of_one_hundredth(seed: int, repaired: bool) -> Program:
    model = nn.Sequential(Sine(2, 64, first=True), Sine(64, 64), nn.Linear(64, 1))
    rate = 3e-4 if repaired else 0.02
    return Program(model, surface(seed), nn.MSELoss(), squared_error, rate, Adam, 300, 128)


@published(
    OPTIMIZER,
    "T15",
    "common question, transformer from scratch at 2e-5, the rate for fine-tuning BERT",
    "learning_rate_too_low undertrained loss_plateau",
)
def rate_for_fine_tuning_from_scratch(seed: int, repaired: bool) -> Program:
    model, rate = models.Transformer(16, 20), 3e-3 if repaired else 2e-5
    return Program(model, data.chain(seed), TokenLoss(), token_loss, rate, AdamW, 200, 16)
