"""Data that do not fit the model or the labels, after questions and issues on PyTorch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.optim import Adam

from detection import data, models
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published.fifth.wiring import GraphClass
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published

DATA = Class.DATA


def rings_or_stars(seed: int, *, transposed: bool) -> Data:
    """Graphs of twelve nodes with the degrees as features; the class is the shape of the graph.

    The edges are a list of pairs of nodes. The network needs a row of sources and a row of
    targets: the transpose, and not the same numbers in another shape.
    """
    y = torch.randint(3, (900,))
    x = torch.zeros(900, 12, 18)
    for graph, kind in zip(x, y.tolist(), strict=True):
        nodes = torch.randperm(12)
        if kind == 0:
            edges = torch.stack([nodes, nodes.roll(1)], 1)
        elif kind == 1:
            edges = torch.stack([nodes, nodes[:1].expand(12)], 1)
        else:
            edges = torch.stack([nodes, nodes[torch.arange(12) // 4]], 1)
        source, target = edges.T if transposed else edges.reshape(2, 12)
        graph[:, 6:][source, target] = 1
        graph[:, 6:][target, source] = 1
        graph[:, 6:].fill_diagonal_(1)
        graph[:, 0] = graph[:, 6:].sum(1) / 4 - 1 + 0.3 * torch.randn(12)
        graph[:, 1:6] = torch.randn(12, 5)
    return data.split(x, y, seed)


@published(
    DATA,
    "T30",
    "common question, edge_index by reshape(2, -1) of a list of edges",
    "label_misaligned loss_plateau overfitting label_noise",
)
def edges_reshaped_in_place_of_transposed(seed: int, repaired: bool) -> Program:
    samples = rings_or_stars(seed, transposed=repaired)
    return Program(GraphClass(by_graph=True), samples, CrossEntropy(), error_rate, 3e-3, Adam, 250)


def visits(seed: int) -> Data:
    """Visits with a time in seconds since 1970 and five measurements; the number of orders."""
    day = torch.rand(2000, 1)
    x = torch.randn(2000, 5)
    y = (6.28 * day).sin() + 0.5 * x[:, :1] + 0.3 * x[:, 1:2] * x[:, 2:3]
    return data.split(torch.cat([1.6e9 + 86400 * day, x], 1), data.standard(y), seed)


@published(
    DATA,
    "T31",
    "common question, Unix time as a feature",
    "unnormalised_input initial_loss_anomaly exploding_gradient learning_rate_too_high",
)
def seconds_since_1970(seed: int, repaired: bool) -> Program:
    model, samples = mlp(6, 64, 64, 1), visits(seed)
    program = Program(model, samples, nn.MSELoss(), squared_error, 3e-3, Adam, 400)
    if repaired:
        program.with_inputs(
            lambda x: torch.cat([(x[:, :1].double() - 1.6e9).float() / 43200 - 1, x[:, 1:]], 1)
        )
    return program


def returns_of_a_share(seed: int) -> Data:
    """Twenty daily returns of about 0.1 %, and the next one, which follows from two of them."""
    series = torch.randn(1600, 21)
    for day in range(2, 21):
        series[:, day] += 0.9 * series[:, day - 1] - 0.6 * series[:, day - 2]
    series = 1e-3 * series
    return data.split(series[:, :20, None], series[:, 20:], seed)


@published(
    DATA,
    "T32",
    "common question, LSTM predicts the same return every day",
    "input_scale_too_small learning_rate_too_low vanishing_activation",
)
def returns_of_a_thousandth(seed: int, repaired: bool) -> Program:
    model, samples = models.Recurrent(nn.LSTM, 1, 32, 1), returns_of_a_share(seed)
    program = Program(model, samples, nn.MSELoss(), squared_error, 3e-3, Adam, 300)
    if repaired:
        program.with_inputs(lambda x: 500 * x)
        program.with_targets(lambda y: 500 * y)
    return program


def rows(seed: int, *, shuffled: bool) -> Data:
    """Windows of twelve hours of two sensors and the next hour of the first one."""
    hour, g = torch.arange(3000.0), data.generator(seed)
    first = (0.26 * hour).sin() + 0.3 * (0.9 * hour).sin() + 0.1 * torch.randn(3000, generator=g)
    table = torch.stack([first, (0.26 * hour + 1).sin() + 0.1 * torch.randn(3000, generator=g)], 1)
    kept = table[:2400]
    if shuffled:
        kept = kept[torch.randperm(2400, generator=g)]
    x, x_test = (part.unfold(0, 13, 1).transpose(1, 2) for part in (kept, table[2400:]))
    return Data(x[:, :12], x[:, 12, :1], x_test[:, :12], x_test[:, 12, :1])


@published(
    DATA,
    "T33",
    "common question, time series shuffled before it is cut into windows",
    "label_misaligned no_learning loss_plateau overfitting",
)
def rows_shuffled_before_the_windows(seed: int, repaired: bool) -> Program:
    model, samples = models.Recurrent(nn.GRU, 2, 24, 1), rows(seed, shuffled=not repaired)
    return Program(model, samples, nn.MSELoss(), squared_error, 5e-3, Adam, 250)


@published(
    DATA,
    "T34",
    "common question, critic of Pendulum with returns from -1600 to 0",
    "target_not_scaled initial_loss_anomaly bias_drift exploding_gradient",
)
def returns_down_to_minus_1600(seed: int, repaired: bool) -> Program:
    angle, speed = 6.28 * torch.rand(2400), 4 * torch.randn(2400)
    cost = 80 * (1 - angle.cos()) ** 2 + 5 * speed**2 + 30 * torch.randn(2400).abs()
    x = torch.stack([angle.cos(), angle.sin(), speed / 4], 1)
    samples = data.split(x, -4 * cost[:, None], seed)
    program = Program(mlp(3, 64, 64, 1), samples, nn.MSELoss(), squared_error, 1e-3, Adam, 400, 64)
    if repaired:
        program.with_targets(lambda y: y / 400 + 1)
    return program


@published(
    DATA,
    "T35",
    "common question, header row skipped in the features and not in the labels",
    "label_misaligned overfitting loss_plateau label_noise",
)
def labels_one_row_late(seed: int, repaired: bool) -> Program:
    samples = data.clusters(seed)
    if not repaired:
        samples = replace(samples, y=samples.y.roll(1))
    program = Program(models.ResMLP(20, 5), samples, CrossEntropy(), error_rate, 2e-3)
    program.steps, program.validate_every = 300, 20
    return program
