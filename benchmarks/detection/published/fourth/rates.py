"""Optimizers, rates and schedules that stop the learning, after issues on PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer, lr_scheduler

from detection import data, models
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.fourth.graphs import Convolutions, community, community_error
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published
from detection.published.third.losses import wrong_neighbours

OPTIMIZER = Class.OPTIMIZER


@published(
    OPTIMIZER,
    "R10",
    "omoindrot/tensorflow-triplet-loss#6, KevinMusgrave/pytorch-metric-learning#20",
    "learning_rate_too_high constant_prediction loss_plateau dead_relu",
)
def triplets_collapse_to_a_point(seed: int, repaired: bool) -> Program:
    lr = 1e-3 if repaired else 0.1
    model = mlp(64, 128, 128, 16)
    return Program(model, parts.digits(seed), hardest, wrong_neighbours, lr, Adam, 200, 64)


def hardest(output: Tensor, target: Tensor) -> Tensor:
    """Triplet loss of the hardest positive and negative sample of the batch, with a margin of 1."""
    squares = ((output[:, None] - output) ** 2).sum(-1)
    distance = (squares + 1e-12).sqrt()
    same = target[:, None] == target
    positive = distance.masked_fill(~same, 0).amax(1)
    negative = distance.masked_fill(same, 1e9).amin(1)
    return (positive - negative + 1).relu().mean()


@published(
    OPTIMIZER,
    "R11",
    "yandex-research/tabm#20",
    "exploding_gradient loss_spike loss_divergence learning_rate_too_high",
)
def gradients_clipped_before_backward(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 40, 2)
    y = x[:, :, :1].cumsum(1) / 3
    model = models.Recurrent(nn.RNN, 2, 32, 1, every=True)
    samples = data.split(x, y, seed)
    program = Program(model, samples, nn.MSELoss(), squared_error, 0.3, sgd(0.9), 200)
    program.step = partial(clipped_step, after=repaired)
    return program


def clipped_step(
    program: Program, optimizer: Optimizer, monitor: Any, _: int, *, after: bool
) -> None:
    """Train one step; clip the gradients after or before they are computed."""
    chosen = torch.randint(len(program.data.x), (program.batch_size,))
    optimizer.zero_grad()
    output = program.forward(program.model, program.data.x[chosen])
    loss = monitor.loss(program.loss(output, program.data.y[chosen]))
    weights = program.parameters(program.model)
    if not after:
        nn.utils.clip_grad_norm_(weights, 0.1)
    loss.backward()
    if after:
        nn.utils.clip_grad_norm_(weights, 0.1)
    optimizer.step()


@published(
    OPTIMIZER,
    "R12",
    "pyg-team/pytorch_geometric#791",
    "learning_rate_too_high loss_spike dead_relu loss_divergence",
)
def graph_network_at_a_high_rate(seed: int, repaired: bool) -> Program:
    lr = 0.01 if repaired else 1.0
    samples, model = community(seed), Convolutions(3)
    return Program(model, samples, CrossEntropy(), community_error, lr, Adam, 150, 16)


@published(
    OPTIMIZER,
    "R13",
    "common question, ReduceLROnPlateau with mode='max' on a loss",
    "schedule_ended_early learning_rate_too_low undertrained",
)
def rate_reduced_when_the_loss_falls(seed: int, repaired: bool) -> Program:
    program = Program(
        cnn(3, size=16), parts.figures(seed), CrossEntropy(), error_rate, 0.02, sgd(0.9), 300
    )
    mode: Any = "min" if repaired else "max"

    def start(program: Program, optimizer: Optimizer) -> None:
        schedule = lr_scheduler.ReduceLROnPlateau(optimizer, mode, 0.1, patience=2)

        def reduce(step: int, program: Program, _: Optimizer) -> None:
            if step % 10 == 9:
                with torch.no_grad():
                    output = program.model(program.data.x_test)
                schedule.step(float(program.loss(output, program.data.y_test)))

        program.events.append(reduce)

    program.started.append(start)
    return program


@published(
    OPTIMIZER,
    "R14",
    "common question, OneCycleLR with max_lr=1",
    "learning_rate_too_high loss_spike loss_divergence dead_relu",
)
def one_cycle_up_to_a_rate_of_one(seed: int, repaired: bool) -> Program:
    highest = 0.01 if repaired else 1.0
    samples = parts.digits(seed, image=True)
    program = Program(cnn(norm=True), samples, CrossEntropy(), error_rate, 1e-3, Adam, 250, 64)
    program.schedule = lambda optimizer, steps: lr_scheduler.OneCycleLR(
        optimizer, max_lr=highest, total_steps=steps + 1
    )
    return program


@published(
    OPTIMIZER,
    "R15",
    "common question, GRU forecast stays at the mean",
    "learning_rate_too_low undertrained",
)
def forecast_at_a_rate_of_one_in_100000(seed: int, repaired: bool) -> Program:
    lr = 5e-3 if repaired else 1e-5
    model = models.Recurrent(nn.GRU, 1, 32, 1, every=True)
    return Program(model, data.waves(seed), nn.MSELoss(), squared_error, lr, Adam, 200)


class Ratings(nn.Module):
    """Products of factors of users and items with biases; the input holds the two numbers."""

    def __init__(self, users: int, items: int, width: int, *, offsets: bool = True) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)
        nn.init.normal_(self.user.weight, 0, 0.1)
        nn.init.normal_(self.item.weight, 0, 0.1)
        self.offsets = offsets
        self.of_user, self.of_item = nn.Embedding(users, 1), nn.Embedding(items, 1)
        nn.init.zeros_(self.of_user.weight)
        nn.init.zeros_(self.of_item.weight)
        self.mean = nn.Parameter(torch.tensor(3.5))

    def forward(self, x: Tensor) -> Tensor:
        user, item = x.long().unbind(1)
        product = (self.user(user) * self.item(item)).sum(1, keepdim=True)
        if not self.offsets:
            return product  # type: ignore[no-any-return]
        return product + self.of_user(user) + self.of_item(item) + self.mean  # type: ignore[no-any-return]


def ratings(seed: int, count: int = 6000, *, users: int = 100, items: int = 60) -> Data:
    """Return pairs of a user and an item, and ratings around 3.5 of rank two with offsets."""
    pairs = torch.stack([torch.randint(users, (count,)), torch.randint(items, (count,))], 1)
    taste, kind = 0.7 * torch.randn(users, 2), 0.7 * torch.randn(items, 2)
    y = 3.5 + (taste[pairs[:, 0]] * kind[pairs[:, 1]]).sum(1)
    y = y + 0.4 * torch.randn(users)[pairs[:, 0]] + 0.4 * torch.randn(items)[pairs[:, 1]]
    y = y + 0.2 * torch.randn(count)
    return data.split(pairs.float(), y[:, None], seed)


@published(
    OPTIMIZER,
    "R16",
    "common question, matrix factorisation with SGD does not start",
    "learning_rate_too_low undertrained vanishing_gradient",
)
def factors_by_plain_descent(seed: int, repaired: bool) -> Program:
    samples, model = ratings(seed), Ratings(100, 60, 8)
    optimizer: Any = Adam if repaired else SGD
    return Program(model, samples, functional.mse_loss, squared_error, 0.01, optimizer, 400, 128)
