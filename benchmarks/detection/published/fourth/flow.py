"""Signals and gradients that vanish or grow on their way, after issues on PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import Adam

from detection import data
from detection.bases import error_rate
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.fourth.graphs import Convolutions, community, community_error
from detection.published.parts import CrossEntropy, sgd
from detection.published.register import published

FLOW = Class.FLOW


@published(
    FLOW,
    "R50",
    "RS-KR/GNN-RS-Beginner#12",
    "vanishing_gradient vanishing_activation init_scale_too_small",
)
def fourteen_graph_convolutions(seed: int, repaired: bool) -> Program:
    samples, model = community(seed), Convolutions(14, skip=repaired)
    return Program(model, samples, CrossEntropy(), community_error, 2e-3, Adam, 120, 16)


@published(
    FLOW,
    "R51",
    "Emory-Melody/GraphSlim#4",
    "exploding_gradient init_scale_too_large initial_loss_anomaly",
)
def sums_over_the_neighbours(seed: int, repaired: bool) -> Program:
    samples, model = community(seed), Convolutions(4, normalise=repaired)
    return Program(model, samples, CrossEntropy(), community_error, 0.05, sgd(0.9), 200, 16)


@published(
    FLOW,
    "R52",
    "common question, deep convolutional network without skip connections",
    "vanishing_gradient init_scale_too_small vanishing_activation",
)
def sixteen_plain_convolutions(seed: int, repaired: bool) -> Program:
    layers: list[nn.Module] = []
    for at in range(16):
        layers.append(nn.Conv2d(12 if at else 1, 12, 3, padding=1))
        if repaired:
            layers.append(nn.BatchNorm2d(12))
        layers.append(nn.ReLU())
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 64, 10))
    samples = parts.digits(seed, image=True)
    return Program(model, samples, CrossEntropy(), error_rate, 0.02, sgd(0.9), 100)


class Stepwise(nn.Module):
    """A recurrent cell that is called for each time; `truncated` detaches its state each time."""

    def __init__(self, *, truncated: bool) -> None:
        super().__init__()
        self.cell, self.head, self.truncated = nn.GRUCell(2, 32), nn.Linear(32, 2), truncated

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 32)
        for now in x.unbind(1):
            if self.truncated:
                state = state.detach()
            state = self.cell(now, state)
        return self.head(state)  # type: ignore[no-any-return]


@published(
    FLOW,
    "R53",
    "common question, hidden state detached at every time",
    "loss_plateau no_learning vanishing_gradient",
)
def state_detached_at_every_time(seed: int, repaired: bool) -> Program:
    model, samples = Stepwise(truncated=not repaired), parts.first_step_cue(seed, 12)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-2, Adam, 200)


@published(
    FLOW,
    "R54",
    "common question, Softmax as the activation of hidden layers",
    "vanishing_gradient vanishing_activation init_scale_too_small",
)
def softmax_in_the_hidden_layers(seed: int, repaired: bool) -> Program:
    activation = nn.ReLU if repaired else lambda: nn.Softmax(1)
    model = parts.mlp(64, 64, 64, 64, 10, activation=activation)
    samples = parts.digits(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, Adam, 300, 64)


class Lookup(nn.Module):
    """One head of attention from the last position to the others, with scores times `scale`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.key, self.query = nn.Linear(16, 64), nn.Linear(16, 64)
        self.value, self.head, self.scale = nn.Linear(16, 64), nn.Linear(64, 4), scale

    def forward(self, x: Tensor) -> Tensor:
        score = self.query(x[:, -1:]) @ self.key(x[:, :-1]).transpose(1, 2)
        weight = (self.scale * score).softmax(-1)
        return self.head((weight @ self.value(x[:, :-1]))[:, 0])  # type: ignore[no-any-return]


def pairs(seed: int) -> Data:
    """Eight pairs of a key and a class, then a key; its class is asked."""
    key = 2 * torch.randn(2000, 8, 12)
    kind, at = torch.randint(4, (2000, 8)), torch.randint(8, (2000,))
    rows = torch.arange(2000)
    x = torch.cat([key, 2 * torch.eye(4)[kind]], 2)
    asked = torch.cat([key[rows, at], torch.zeros(2000, 4)], 1)
    return data.split(torch.cat([x, asked[:, None]], 1), kind[rows, at], seed)


@published(
    FLOW,
    "R55",
    "common question, attention scores multiplied by the root of the width",
    "attention_logit_growth saturated_activation vanishing_gradient",
)
def scores_times_the_root_of_the_width(seed: int, repaired: bool) -> Program:
    model = Lookup(1 / math.sqrt(64) if repaired else math.sqrt(64))
    return Program(model, pairs(seed), CrossEntropy(), error_rate, 3e-3, Adam, 300, 64)
