"""Runs that overfit, underfit or stop too early, after common questions on PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data, models
from detection.bases import squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.fourth.rates import Ratings, ratings
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, mlp
from detection.published.register import published
from detection.published.third.losses import overlap_missed

FIT = Class.FIT


@published(FIT, "R80", "common question, recommender learns the ratings by heart", "overfitting")
def many_factors_for_few_ratings(seed: int, repaired: bool) -> Program:
    samples, model = ratings(seed, 1500), Ratings(100, 60, 2 if repaired else 64)
    program = Program(model, samples, functional.mse_loss, squared_error, 0.01, Adam, 400, 64)
    program.optimizer = lambda parameters, lr: Adam(
        parameters, lr, weight_decay=3e-3 if repaired else 0
    )
    program.validate_every = 20
    return program


def frames(seed: int) -> Data:
    """Noisy images with the outline of a square, and the mask of the whole square."""
    mask = torch.zeros(800, 1, 16, 16)
    outline = torch.zeros(800, 1, 16, 16)
    for at, (row, column) in enumerate(torch.randint(1, 9, (800, 2)).tolist()):
        mask[at, 0, row : row + 6, column : column + 6] = 1
        outline[at, 0, row : row + 6, column : column + 6] = 1
        outline[at, 0, row + 1 : row + 5, column + 1 : column + 5] = 0
    return data.split(outline + 0.2 * torch.randn(outline.shape), mask, seed)


@published(FIT, "R81", "common question, segmentation with a small receptive field", "loss_plateau")
def kernels_of_one_pixel(seed: int, repaired: bool) -> Program:
    size = 5 if repaired else 1
    model = nn.Sequential(
        nn.Conv2d(1, 16, size, padding="same"),
        nn.ReLU(),
        nn.Conv2d(16, 16, size, padding="same"),
        nn.ReLU(),
        nn.Conv2d(16, 1, 1),
    )
    return Program(model, frames(seed), BinaryCrossEntropy(), overlap_missed, 5e-3, Adam, 120, 16)


@published(
    FIT,
    "R82",
    "common question, forecast stopped after one epoch",
    "undertrained learning_rate_too_low",
)
def one_pass_over_the_series(seed: int, repaired: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 1, 32, 1, every=True)
    program = Program(model, data.waves(seed), nn.MSELoss(), squared_error, 1e-3, Adam, 28)
    if repaired:
        program.steps = 400
    return program


@published(
    FIT,
    "R83",
    "common question, sum of the absolute weights added to the loss",
    "over_regularised loss_plateau constant_prediction",
)
def penalty_on_the_absolute_weights(seed: int, repaired: bool) -> Program:
    model, factor = mlp(10, 64, 64, 1), 1e-5 if repaired else 0.05

    def loss(output: Tensor, target: Tensor) -> Tensor:
        penalty: Any = sum(weight.abs().sum() for weight in model.parameters())
        return functional.mse_loss(output, target) + factor * penalty  # type: ignore[no-any-return]

    return Program(model, data.friedman(seed), loss, squared_error, 3e-3, Adam, 400)


@published(
    FIT,
    "R84",
    "common question, label_smoothing=0.9",
    "over_regularised loss_plateau loss_task_mismatch",
)
def labels_smoothed_by_nine_tenths(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed)
    loss = CrossEntropy(label_smoothing=0.05 if repaired else 0.9)
    return Program(mlp(64, 64, 10), samples, loss, CrossEntropy(), 2e-3, Adam, 300, 64)


@published(
    FIT,
    "R85",
    "common question, validation loss rises from the first epochs on",
    "overfitting",
)
def wide_network_for_sixty_patients(seed: int, repaired: bool) -> Program:
    samples = parts.classification(seed, 60, 6, n_samples=1200, class_sep=0.8)
    if not repaired:
        samples = Data(samples.x[:60], samples.y[:60], samples.x_test, samples.y_test)
    loss = CrossEntropy()
    program = Program(mlp(60, 256, 256, 2), samples, loss, loss, 1e-3, Adam, 100)
    program.validate_every = 5
    return program
