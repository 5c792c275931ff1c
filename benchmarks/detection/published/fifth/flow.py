"""Signals and gradients that vanish or grow on their way, after questions on PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, mlp, sgd
from detection.published.register import published

FLOW = Class.FLOW


class Deep(nn.Module):
    """Twenty-four linear layers with or without skip connections."""

    def __init__(self, *, skip: bool) -> None:
        super().__init__()
        self.inputs, self.head, self.skip = nn.Linear(10, 48), nn.Linear(48, 1), skip
        self.layers = nn.ModuleList(nn.Linear(48, 48) for _ in range(24))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inputs(x)
        for layer in self.layers:
            new = layer(h.relu())
            h = h + new if self.skip else new
        return self.head(h)  # type: ignore[no-any-return]


@published(
    FLOW,
    "T50",
    "common question, deep regression network returns the same value for every input",
    "vanishing_gradient vanishing_activation init_scale_too_small init_activation_mismatch",
)
def twenty_four_layers_as_they_are_made(seed: int, repaired: bool) -> Program:
    model, samples = Deep(skip=repaired), data.friedman(seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 1e-3, Adam, 200, 64)


class Gated(nn.Module):
    """Twelve layers whose output is multiplied by a gate from 0 to 1, with or without a skip."""

    def __init__(self, *, skip: bool) -> None:
        super().__init__()
        self.inputs, self.head, self.skip = nn.Linear(64, 32), nn.Linear(32, 10), skip
        self.layers = nn.ModuleList(nn.Linear(32, 64) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inputs(x)
        for layer in self.layers:
            gated = nn.functional.glu(layer(h))
            h = h + gated if self.skip else gated
        return self.head(h)  # type: ignore[no-any-return]


@published(
    FLOW,
    "T51",
    "common question, stack of gated linear units without skip connections",
    "vanishing_gradient vanishing_activation init_scale_too_small",
)
def twelve_gates_that_halve_the_signal(seed: int, repaired: bool) -> Program:
    samples = data.digits(seed)
    return Program(Gated(skip=repaired), samples, CrossEntropy(), error_rate, 1e-3, Adam, 150, 64)


class Actor(nn.Module):
    """A policy whose action lies between -1 and 1; the state is in metres and millimetres."""

    def __init__(self, *, normalised: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, affine=False) if normalised else nn.Identity()
        self.body = mlp(4, 64, 64, 1, activation=nn.Tanh, output=nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.norm(x))  # type: ignore[no-any-return]


def steering(seed: int) -> Data:
    """States of a vehicle and the best steering, from -1 to 1."""
    x = torch.randn(2000, 4)
    y = 0.8 * (x[:, :1] + 0.6 * x[:, 1:2] * x[:, 2:3]).tanh()
    return data.split(x * torch.tensor([300.0, 1200.0, 40.0, 900.0]) + 500, y, seed)


@published(
    FLOW,
    "T52",
    "ZhihanLee/DDPG_Learning#2",
    "saturated_activation unnormalised_input vanishing_gradient",
)
def actions_saturate_at_the_limits(seed: int, repaired: bool) -> Program:
    model, samples = Actor(normalised=repaired), steering(seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 1e-3, Adam, 400, 64)


class Listener(nn.Module):
    """A GRU whose last state, or whose largest values over time, are classified."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.rnn, self.head, self.last = nn.GRU(2, 24, batch_first=True), nn.Linear(24, 2), last

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x)
        return self.head(states[:, -1] if self.last else states.amax(1))  # type: ignore[no-any-return]


@published(
    FLOW,
    "T53",
    "common question, GRU does not learn sequences of sixty steps",
    "vanishing_gradient loss_plateau no_learning",
)
def cue_before_60_steps_of_noise(seed: int, repaired: bool) -> Program:
    samples = parts.first_step_cue(seed, 60)
    model = Listener(last=not repaired)
    return Program(model, samples, CrossEntropy(), error_rate, 3e-3, Adam, 120)


class Flow(nn.Module):
    """Thirty steps of Euler's method through a learned field, and a linear head."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.field, self.head, self.step = mlp(8, 32, 8), nn.Linear(8, 3), step
        nn.init.kaiming_normal_(self.field[0].weight)  # type: ignore[arg-type]
        nn.init.kaiming_normal_(self.field[2].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(30):
            x = x + self.step * self.field(x)
        return self.head(x)  # type: ignore[no-any-return]


@published(
    FLOW,
    "T54",
    "common question, neural differential equation with a step of 1",
    "exploding_gradient init_scale_too_large initial_loss_anomaly non_finite_value",
)
def thirty_steps_of_length_one(seed: int, repaired: bool) -> Program:
    samples = data.clusters(seed, classes=3, features=8)
    model = Flow(1 / 30 if repaired else 1.0)
    program = Program(model, samples, CrossEntropy(), error_rate, 0.05, sgd(0.9), 150)
    program.clip_norm = 1.0
    return program
