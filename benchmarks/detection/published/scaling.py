"""Inputs and targets on a scale that the network cannot use, and inputs without information."""

from __future__ import annotations

import torch
from torch import nn

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published


@published(
    Class.DATA,
    "F008",
    "Stack Overflow 55328966",
    "unnormalised_input output_range_mismatch loss_plateau",
)
def raw_pixels_and_sigmoid_output(seed: int, repaired: bool) -> Program:
    model = mlp(64, 784, 64, 10, output=None if repaired else nn.Sigmoid())
    samples = parts.digits(seed)
    lr, optimizer = 0.1 if repaired else 1e-3, sgd(weight_decay=1e-4)
    program = Program(model, samples, CrossEntropy(), error_rate, lr, optimizer, 200, 64)
    if not repaired:
        program.with_inputs(lambda x: 255 * x)
    return program


@published(Class.DATA, "F014", "Stack Overflow 47724077", "unnormalised_input initial_loss_anomaly")
def features_with_ranges_up_to_a_million(seed: int, repaired: bool) -> Program:
    scale = torch.logspace(0, 6, 14)
    x = (torch.rand(3000, 14) * scale).round()
    y = ((x / scale).sum(1) > 7).long()
    samples = data.split(parts.standard(x) if repaired else x, y, seed)
    return Program(
        mlp(14, 21, 2), samples, CrossEntropy(), error_rate, 1e-3, steps=200, batch_size=100
    )


@published(Class.DATA, "F026", "Stack Overflow 48594888", "unnormalised_input initial_loss_anomaly")
def images_from_0_to_255(seed: int, repaired: bool) -> Program:
    model = cnn(3, channels=3, widths=(64, 128), dense=256, size=16, dropout=0.3)
    samples = parts.figures(seed, channels=3)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=12, batch_size=128)
    if not repaired:
        program.with_inputs(lambda x: 255 * x)
    return program


@published(
    Class.DATA,
    "F028",
    "Stack Overflow 58609115",
    "unnormalised_input learning_rate_too_high loss_divergence exploding_gradient",
)
def celsius_to_fahrenheit_without_scaling(seed: int, repaired: bool) -> Program:
    x = 140 * torch.rand(500, 1) - 40
    y = 1.8 * x + 32
    if repaired:
        x, y = parts.standard(x), parts.standard(y)
    samples, lr = data.split(x, y, seed), 0.1 if repaired else 0.01
    return Program(nn.Linear(1, 1), samples, nn.MSELoss(), squared_error, lr, sgd(), 300)


@published(
    Class.DATA,
    "F038",
    "Stack Overflow 46995209",
    "unnormalised_input saturated_activation vanishing_gradient",
)
def inputs_to_10000_into_tanh(seed: int, repaired: bool) -> Program:
    x = 1e4 * torch.rand(2000, 8)
    y = x[:, :1] / 1e4 + torch.sin(x[:, 1:2] / 2e3)
    if repaired:
        model, samples = mlp(8, 64, 64, 1), data.split(parts.standard(x), parts.standard(y), seed)
    else:
        narrow = mlp(10, *[10] * 6, 1)
        model = nn.Sequential(
            *(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 90), nn.Tanh()),
            *(nn.Linear(90, 10), nn.ReLU(), *narrow),
        )
        samples = data.split(x, y, seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 1e-3, steps=300, batch_size=64)


@published(
    Class.DATA,
    "F040",
    "Stack Overflow 47932589",
    "unnormalised_input target_not_scaled initial_loss_anomaly",
)
def inputs_and_targets_in_thousands(seed: int, repaired: bool) -> Program:
    x = 5000 * torch.rand(2000, 6) + 1000
    y = 0.5 * x.sum(1, keepdim=True) + 300 * torch.sin(x[:, :1] / 500)
    if repaired:
        x, y = parts.standard(x), parts.standard(y)
    samples = data.split(x, y, seed)
    return Program(mlp(6, 64, 64, 1), samples, nn.MSELoss(), squared_error, 1e-3, steps=200)


@published(
    Class.DATA,
    "F044",
    "GitHub yetanotherdeveloper/kaggle-melbourne_properties",
    "target_not_scaled bias_drift learning_rate_too_low",
)
def prices_of_a_million(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 10)
    y = 1e6 + 3e5 * x[:, :3].sum(1, keepdim=True)
    samples = data.split(x, parts.standard(y) if repaired else y, seed)
    model = mlp(10, 20, 20, 1, activation=nn.Tanh)
    parts.initialise(model, nn.init.xavier_uniform_)
    return Program(model, samples, nn.L1Loss(), squared_error, 1e-3, steps=300)


@published(
    Class.DATA,
    "F054",
    "TheDeepChecker, double_normalization",
    "input_scale_too_small learning_rate_too_low vanishing_activation",
)
def pixels_scaled_twice(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    program = Program(cnn(), samples, CrossEntropy(), error_rate, 0.1, sgd(), 200, 64)
    if not repaired:
        program.with_inputs(lambda x: x / 255)
    return program


@published(
    Class.DATA, "F136", "this project, after the recipe of Karpathy", "constant_input loss_plateau"
)
def inputs_multiplied_by_zero(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed)
    program = Program(
        mlp(64, 64, 10), samples, CrossEntropy(), error_rate, 1e-3, steps=200, batch_size=64
    )
    if not repaired:
        program.with_inputs(lambda x: 0 * x)
    return program
