"""DeepFD's benchmark: output layers and losses that do not fit the targets."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, mlp, sgd, wrong_side
from detection.published.register import published
from detection.published.second.keras import NESTEROV, RMSPROP, glorot, normal, uniform

LOSS = Class.LOSS


@published(
    LOSS,
    "S001",
    "Stack Overflow 48385830 (DeepFD)",
    "learning_rate_too_high missing_nonlinearity loss_task_mismatch loss_divergence",
)
def no_activations_and_squared_error_at_rate_3(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed)
    model = mlp(64, 30, 10, activation=nn.Sigmoid if repaired else None)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    if repaired:
        return Program(model, samples, CrossEntropy(), error_rate, 0.5, sgd(), 600, 10)
    samples = parts.one_hot(samples, 10)
    return Program(model, samples, nn.MSELoss(), error_rate, 3.0, sgd(), 600, 10)


@published(
    LOSS,
    "S002",
    "Stack Overflow 31556268 (DeepFD)",
    "loss_task_mismatch learning_rate_too_low undertrained loss_plateau",
)
def absolute_error_for_exclusive_or(_: int, repaired: bool) -> Program:
    model = glorot(mlp(2, 4, 1, activation=nn.Sigmoid, output=nn.Sigmoid()))
    if repaired:
        program = Program(model, exclusive_or(), nn.MSELoss(), squared_error, 0.1)
    else:
        optimizer = sgd(0.11, nesterov=True)
        program = Program(model, exclusive_or(), nn.L1Loss(), squared_error, 0.05, optimizer)
    program.steps, program.sample = 600, parts.whole
    return program


def exclusive_or() -> Data:
    """Return the four samples of exclusive or, for training and test."""
    x = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    return Data(x, y, x, y)


@published(
    LOSS,
    "S003",
    "Stack Overflow 34311586 (DeepFD)",
    "softmax_before_cross_entropy no_signal learning_rate_too_low init_scale_too_small",
)
def softmax_over_one_unit_for_exclusive_or(_: int, repaired: bool) -> Program:
    output = nn.Sigmoid() if repaired else nn.Softmax(1)
    model = mlp(2, 2, 3, 1, activation=nn.Sigmoid, output=output)
    samples, loss = exclusive_or(), nn.MSELoss()
    if repaired:
        program = Program(parts.normal_(model, 1.5), samples, loss, squared_error, 0.1)
    else:
        program = Program(uniform(model), samples, loss, squared_error, 1e-3, NESTEROV)
    program.steps, program.sample = 600, parts.whole
    return program


@published(LOSS, "S004", "Stack Overflow 48251943 (DeepFD)", "output_range_mismatch dead_relu")
def relu_output_for_targets_of_both_signs(seed: int, repaired: bool) -> Program:
    x = torch.randn(200, 2)
    y = torch.tanh(x @ torch.tensor([[1.0], [-1.0]]) + 0.1 * torch.randn(200, 1))
    model = glorot(mlp(2, 4, 1, output=nn.Tanh() if repaired else nn.ReLU()))
    samples = data.split(x, y, seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 0.01, sgd(), 600, 10)


@published(
    LOSS,
    "S005",
    "Stack Overflow 33969059 (DeepFD)",
    "output_range_mismatch no_signal target_not_scaled unnormalised_input",
)
def softmax_over_one_unit_for_large_targets(seed: int, repaired: bool) -> Program:
    x = 1e4 * torch.rand(2000, 3)
    y = x @ torch.tensor([[2.0], [1.0], [0.5]]) + 2.2
    if repaired:
        model = glorot(mlp(3, 3, 2, 1, activation=nn.Tanh))
        samples = data.split(parts.standard(x), parts.standard(y), seed)
    else:
        model = mlp(3, 3, 2, 1, activation=nn.Tanh, dropout=0.5, output=nn.Softmax(1))
        model, samples = uniform(model), data.split(x, y, seed)
    lr = 0.01 if repaired else 0.1
    return Program(model, samples, nn.MSELoss(), squared_error, lr, NESTEROV, 400)


@published(
    LOSS, "S006", "Stack Overflow 48221692 (DeepFD)", "output_range_mismatch target_not_scaled"
)
def sigmoid_output_for_a_parabola(seed: int, repaired: bool) -> Program:
    x = torch.arange(-10, 10, 0.1)[:, None]
    model = glorot(mlp(1, 5, 1, activation=nn.Sigmoid, output=None if repaired else nn.Sigmoid()))
    samples = data.split(x, x**2 + 3, seed)
    program = Program(model, samples, nn.MSELoss(), squared_error, 0.01, sgd(), 600)
    program.sample = parts.whole
    return program


SINGLE_SOFTMAX = "softmax_before_cross_entropy no_signal"


@published(LOSS, "S007", "Stack Overflow 45337371 (DeepFD)", SINGLE_SOFTMAX)
def softmax_over_one_unit_for_five_features(seed: int, repaired: bool) -> Program:
    x = torch.rand(1000, 5)
    y = ((x - 0.5) @ torch.randn(5, 1) > 0).float()
    model = glorot(mlp(5, 60, 50, 1, output=None if repaired else nn.Softmax(1)))
    return binary(model, data.split(x, y, seed), repaired)


@published(LOSS, "S008", "Stack Overflow 42800203 (DeepFD)", SINGLE_SOFTMAX)
def softmax_over_one_unit_for_texts(seed: int, repaired: bool) -> Program:
    model = glorot(
        nn.Sequential(
            *(nn.Embedding(200, 16), Transpose(), nn.Dropout(0.3)),
            *(nn.Conv1d(16, 32, 5), nn.ReLU(), nn.MaxPool1d(4), nn.Flatten(), nn.Linear(288, 1)),
        )
    )
    if not repaired:
        model = nn.Sequential(model, nn.Softmax(1))
    return binary(model, texts_with_a_word(seed), repaired)


class Transpose(nn.Module):
    """Exchange positions and channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def texts_with_a_word(seed: int) -> Data:
    """Return texts of 40 words of 200; the target is whether one of three words occurs."""
    x = torch.randint(3, 200, (1600, 40))
    y = torch.arange(1600) % 2
    at = torch.randint(40, (800,))
    x[torch.arange(1, 1600, 2), at] = torch.randint(3, (800,))
    return data.split(x, y.float()[:, None], seed)


def binary(model: nn.Module, samples: Data, repaired: bool) -> Program:
    """Train with Adam; the repaired model returns logits, the other one probabilities."""
    loss = BinaryCrossEntropy() if repaired else nn.BCELoss()
    metric = wrong_side(0.0 if repaired else 0.5)
    return Program(model, samples, loss, metric, 1e-3, steps=400)


@published(
    LOSS,
    "S009",
    "Stack Overflow 45442843 (DeepFD)",
    "no_signal softmax_before_cross_entropy loss_task_mismatch unnormalised_input",
)
def softmax_over_one_unit_and_absolute_error(seed: int, repaired: bool) -> Program:
    x = 20000 + 3500 * torch.randn(1000, 1)
    y = (x + 300 * torch.randn(1000, 1) < 20400).float()
    model = normal(mlp(1, 1, 1, activation=nn.Sigmoid, output=None if repaired else nn.Softmax(1)))
    if repaired:
        samples, metric = data.split(parts.standard(x), y, seed), wrong_side(0.0)
        return Program(model, samples, BinaryCrossEntropy(), metric, 0.01, RMSPROP, 400, 200)
    samples, metric = data.split(x, y, seed), wrong_side(0.5)
    return Program(model, samples, nn.L1Loss(), metric, 1e-3, RMSPROP, 400, 200)


@published(
    LOSS,
    "S010",
    "Stack Overflow 50481178 (DeepFD)",
    "loss_task_mismatch softmax_before_cross_entropy no_signal",
)
def categorical_loss_for_one_output(seed: int, repaired: bool) -> Program:
    x = torch.poisson(torch.full((1000, 4), 12.0))
    y = (x[:, :2].sum(1) > x[:, 2:].sum(1)).float()[:, None]
    model = glorot(mlp(4, 10, 20, 30, 40, 50, 1))
    loss = BinaryCrossEntropy() if repaired else CrossEntropy()
    samples = data.split(x, y, seed)
    return Program(model, samples, loss, wrong_side(0.0), 1e-3, steps=600, batch_size=10)


@published(Class.DATA, "S011", "Stack Overflow 59325381 (DeepFD)", "trivial_target class_imbalance")
def labels_divided_by_255(seed: int, repaired: bool) -> Program:
    model = nn.Sequential(
        *(nn.Conv2d(1, 64, 3, padding=1), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 32, 3, padding=1), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    samples = parts.digits(seed, image=True)
    program = Program(glorot(model), samples, CrossEntropy(), error_rate, 1e-3, steps=200)
    if not repaired:
        program.data = replace(samples, x_test=255 * samples.x_test)
        program.with_targets(lambda y: (y / 255).long(), test=False)
    return program
