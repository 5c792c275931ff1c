"""Weights and biases that start wrongly, after questions and issues on PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Adam

from detection import data, models
from detection.bases import TokenLoss, error_rate, momentum, squared_error, token_loss
from detection.case import Class
from detection.program import Data, Program
from detection.published.fourth.graphs import CLASSES, FEATURES, community, community_error
from detection.published.parts import CrossEntropy, cnn, column, figures, initialise, normal_
from detection.published.register import published

BIAS, INITIALISATION = Class.BIAS, Class.INITIALISATION


class Energy(nn.Module):
    """Two graph convolutions and the mean over the atoms; the head's bias is `bias`."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.inputs, self.layer = nn.Linear(6, 48), nn.Linear(48, 48)
        self.head = nn.Linear(48, 1)
        nn.init.constant_(self.head.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        h, edges = self.inputs(x[..., :6]).relu(), x[..., 6:]
        h = self.layer(edges @ h / edges.sum(-1, keepdim=True)).relu()
        return self.head(h.mean(1))  # type: ignore[no-any-return]


def molecules_with_energies(seed: int) -> Data:
    """Random graphs of ten atoms of six kinds and their energy, around -400."""
    kinds = torch.randint(6, (1600, 10))
    nodes = torch.eye(6)[kinds]
    edge = (torch.rand(1600, 10, 10) < 0.25).float().triu(1)
    edges = edge + edge.transpose(1, 2) + torch.eye(10)
    bond = torch.randn(6, 6)
    energy = torch.einsum("nia,ab,njb,nij->n", nodes, bond, nodes, edges)
    y = -400 + 2 * data.standard(energy)[:, None]
    return data.split(torch.cat([nodes, edges], 2), y, seed)


@published(
    BIAS,
    "U60",
    "nronne/agedi#82, deepmodeling/deepmd-kit#1477",
    "target_not_scaled output_bias_prior bias_drift initial_loss_anomaly learning_rate_too_low",
)
def energies_around_minus_400(seed: int, repaired: bool) -> Program:
    model = Energy(-400.0 if repaired else 0.0)
    samples = molecules_with_energies(seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 4e-3, Adam, 600)


def mostly_positive(seed: int) -> Data:
    """Ten features and a class that is 1 for most samples, as a column."""
    x = torch.randn(2400, 10)
    y = torch.rand(2400) < (x @ torch.randn(10) + 3).sigmoid()
    return column(data.split(x, y.long(), seed))


@published(
    BIAS,
    "U61",
    "common question, logistic regression as x @ w without an intercept",
    "missing_output_bias class_imbalance loss_plateau output_bias_prior",
)
def logistic_regression_without_an_intercept(seed: int, repaired: bool) -> Program:
    model, loss = nn.Linear(10, 1, bias=repaired), nn.BCEWithLogitsLoss()
    return Program(model, mostly_positive(seed), loss, loss, 0.02, Adam, 400)


class SharedBias(nn.Module):
    """Layers without biases; one number, or one for each output, is added at the end."""

    def __init__(self, biases: int) -> None:
        super().__init__()
        self.first = nn.Linear(10, 64)
        self.head = nn.Linear(64, 8, bias=False)
        self.bias = nn.Parameter(torch.zeros(biases))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).tanh()) + self.bias  # type: ignore[no-any-return]


def sensors(seed: int) -> Data:
    """Ten features and eight sensors with levels from -30 to 30."""
    x = torch.randn(2000, 10)
    y = (x @ torch.randn(10, 8) / 3).tanh() + torch.linspace(-30, 30, 8)
    return data.split(x, y, seed)


def error_of_sensors(output: Tensor, target: Tensor) -> Tensor:
    """Squared error over the variance of each sensor."""
    return (((output - target) ** 2).mean(0) / target.var(0)).mean()


@published(
    BIAS,
    "U62",
    "common question, nn.Parameter(torch.zeros(1)) as the bias of eight outputs",
    "missing_output_bias bias_drift target_not_scaled loss_plateau initial_loss_anomaly",
)
def one_bias_for_eight_outputs(seed: int, repaired: bool) -> Program:
    program = Program(
        SharedBias(8 if repaired else 1), sensors(seed), nn.MSELoss(), error_of_sensors, 3e-3, Adam
    )
    if repaired:
        levels = program.data.y.mean(0)
        program.model.bias.data.copy_(levels)  # type: ignore[union-attr,operator]
    program.steps = 400
    return program


@published(
    BIAS,
    "U63",
    "common question, network for ages predicts the same value for a long time",
    "target_not_scaled output_bias_prior bias_drift initial_loss_anomaly learning_rate_too_low "
    "undertrained",
)
def ages_from_a_bias_of_zero(seed: int, repaired: bool) -> Program:
    model, samples = cnn(1, size=16), figures(seed)
    nn.init.constant_(model[-1].bias, 45.0 if repaired else 0.0)  # type: ignore[arg-type]
    program = Program(model, samples, nn.MSELoss(), squared_error, 3e-4, Adam, 400)
    program.with_targets(lambda y: 45 + 8 * (y[:, None] - 1.0))
    return program


def normal_everywhere(model: nn.Module) -> nn.Module:
    """Draw every parameter from N(0, 1) and return the model."""
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@published(
    INITIALISATION,
    "U70",
    "common question, nn.init.normal_(p) for all parameters of an LSTM",
    "init_scale_too_large saturated_activation exploding_gradient initial_loss_anomaly",
)
def lstm_with_parameters_of_deviation_one(seed: int, repaired: bool) -> Program:
    model: nn.Module = models.Recurrent(nn.LSTM, 1, 48, 1, every=True)
    if not repaired:
        normal_everywhere(model)
    return Program(model, data.waves(seed), nn.MSELoss(), squared_error, 3e-3, Adam, 300)


@published(
    INITIALISATION,
    "U71",
    "common question, _init_weights with normal_(p) and without std=0.02",
    "init_scale_too_large initial_loss_anomaly exploding_gradient attention_logit_growth",
)
def transformer_with_parameters_of_deviation_one(seed: int, repaired: bool) -> Program:
    model: nn.Module = models.Transformer(16, 20)
    if not repaired:
        normal_everywhere(model)
    return Program(model, data.chain(seed), TokenLoss(), token_loss, 3e-3, Adam, 300, 16)


@published(
    INITIALISATION,
    "U72",
    "common question, weights_init of DCGAN for a network without BatchNorm",
    "init_scale_too_small vanishing_activation vanishing_gradient no_learning loss_plateau",
)
def deviation_of_one_fiftieth_without_norms(seed: int, repaired: bool) -> Program:
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
    for _ in range(5):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))
    if repaired:
        initialise(model, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))
    else:
        normal_(model, 0.02)
    return Program(model, figures(seed), CrossEntropy(), error_rate, 0.01, momentum, 300)


@published(
    INITIALISATION,
    "U73",
    "common question, nn.init.constant_(p, 0.1) for a recurrent network",
    "symmetric_init loss_plateau",
)
def recurrent_network_of_equal_weights(seed: int, repaired: bool) -> Program:
    model = models.Recurrent(nn.GRU, 4, 24, 4)
    if not repaired:
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.1)
    return Program(model, data.cue(seed), CrossEntropy(), error_rate, 5e-3, Adam, 300)


class OwnConvolutions(nn.Module):
    """Graph convolutions whose weights are nn.Parameter(scale * torch.randn(inputs, outputs))."""

    def __init__(self, *, unit: bool) -> None:
        super().__init__()
        sizes = (FEATURES, 64, 64, 64, 64)
        self.weights = nn.ParameterList(
            torch.randn(a, b) * (1.0 if unit else (2 / a) ** 0.5) for a, b in pairwise(sizes)
        )
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h, edges = x[..., :FEATURES], x[..., FEATURES:]
        edges = edges / edges.sum(-1, keepdim=True)
        for weight in self.weights:
            h = (edges @ h @ weight).relu()
        return self.head(h).transpose(1, 2)  # type: ignore[no-any-return]


@published(
    INITIALISATION,
    "U74",
    "graykode/xlnet-Pytorch#17, nn.Parameter(torch.randn(inputs, outputs))",
    "init_scale_too_large initial_loss_anomaly exploding_gradient",
)
def own_graph_layers_of_deviation_one(seed: int, repaired: bool) -> Program:
    model, samples = OwnConvolutions(unit=not repaired), community(seed)
    return Program(model, samples, CrossEntropy(), community_error, 2e-3, Adam, 300, 16)
