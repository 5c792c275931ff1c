"""Labels that are wrong, targets with outliers, and samples in a harmful order."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published


@published(
    Class.DATA,
    "F030",
    "Stack Overflow 58237726",
    "data_order loss_oscillation learning_rate_too_high",
)
def batches_of_one_class(seed: int, repaired: bool) -> Program:
    y = torch.arange(2).repeat_interleave(64)
    x = y[:, None, None, None, None] + 0.1 * torch.randn(128, 1, 6, 6, 6)
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    samples = data.split(x, y, seed)
    program = Program(model, samples, CrossEntropy(), CrossEntropy(), 0.1, sgd(), 160, 16)
    if not repaired:
        order = samples.y.argsort()
        program.data = replace(samples, x=samples.x[order], y=samples.y[order])
        program.sample = parts.in_order
    return program


@published(
    Class.DATA, "F060", "TheDeepChecker, wrong_labels", "label_misaligned loss_plateau overfitting"
)
def inputs_shuffled_without_the_labels(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    program = Program(cnn(), samples, CrossEntropy(), error_rate, 0.1, sgd(), 300, 64)
    program.validate_every = 20
    if not repaired:
        program.with_targets(lambda y: y[torch.randperm(len(y))], test=False)
    return program


@published(Class.DATA, "F088", "DeepCrime, TCL change_label 50 %", "label_noise")
def half_the_labels_of_a_class_random(seed: int, repaired: bool) -> Program:
    program = class_three(seed)
    if not repaired:
        changed = half_of_class_three(program.data.y)
        random = torch.randint(10, (len(changed),))
        program.with_targets(lambda y: y.index_put((changed,), random), test=False)
    return program


@published(Class.DATA, "F092", "DeepCrime, TCO overlap 50 %", "label_noise")
def half_a_class_repeated_with_another_label(seed: int, repaired: bool) -> Program:
    program = class_three(seed)
    if not repaired:
        x, y = program.data.x, program.data.y
        again = half_of_class_three(y)
        x, y = torch.cat([x, x[again]]), torch.cat([y, torch.full((len(again),), 5)])
        program.data = replace(program.data, x=x, y=y)
    return program


def class_three(seed: int) -> Program:
    """Return a healthy program that is judged by its errors on class 3."""
    samples = parts.digits(seed, image=True)
    metric = parts.error_of_class(3)
    program = Program(cnn(), samples, CrossEntropy(), metric, 1e-3, steps=600, batch_size=64)
    program.validate_every = 20
    return program


def half_of_class_three(y: Tensor) -> Tensor:
    """Return the numbers of every second sample of class 3."""
    return torch.nonzero(y == 3)[::2, 0]


@published(
    Class.DATA,
    "F134",
    "this project, after TFCheck",
    "target_outliers loss_spike gradient_noise_dominates",
)
def two_percent_of_targets_times_100(seed: int, repaired: bool) -> Program:
    x = torch.randn(3000, 8)
    y = x @ torch.randn(8, 1)
    loss = nn.HuberLoss() if repaired else nn.MSELoss()
    program = Program(
        mlp(8, 64, 1), data.split(x, y, seed), loss, squared_error, 1e-3, steps=400, batch_size=64
    )
    factor = torch.where(torch.rand(len(program.data.y), 1) < 0.02, 100.0, 1.0)
    program.with_targets(lambda y: y * factor, test=False)
    return program
