"""Faults of the data and of its preparation, after questions and issues on PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam

from detection import data, models
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published.parts import CrossEntropy, cnn, figures, mlp
from detection.published.register import published

DATA = Class.DATA


@published(
    DATA,
    "U20",
    "common question, images // 255 makes every image black",
    "constant_input no_learning class_collapse constant_prediction loss_plateau",
)
def pixels_divided_as_integers(seed: int, repaired: bool) -> Program:
    program = Program(cnn(3, size=16), figures(seed), CrossEntropy(), error_rate, 2e-3, Adam, 300)
    program.with_inputs(lambda x: (255 * x).to(torch.uint8))
    program.with_inputs(lambda x: x / 255 if repaired else (x // 255).float())
    return program


def arrows(seed: int) -> Data:
    """Noisy images of 12 x 12 with an arrow to the left, right, top or bottom."""
    y = torch.randint(4, (1200,))
    arrow = torch.zeros(5, 5)
    arrow[2] = 1
    arrow[[1, 3, 0, 4], [1, 1, 2, 2]] = 1
    kinds = torch.stack([arrow, arrow.flip(1), arrow.T, arrow.T.flip(0)])
    x = 0.3 * torch.randn(1200, 1, 12, 12)
    corners = torch.randint(8, (1200, 2)).tolist()
    for image, kind, (row, column) in zip(x, y.tolist(), corners, strict=True):
        image[0, row : row + 5, column : column + 5] += 1.5 * kinds[kind]
    return data.split(x, y, seed)


@published(
    DATA,
    "U21",
    "AlexeyAB/darknet#2416, arunos728/MotionSqueeze#1",
    "wrong_augmentation label_noise loss_plateau",
)
def arrows_flipped_at_random(seed: int, repaired: bool) -> Program:
    program = Program(cnn(4, size=12), arrows(seed), CrossEntropy(), error_rate, 2e-3, Adam, 400)

    def flipped(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if repaired:
            return x, y
        return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x), y

    program.collate = flipped
    return program


@published(
    DATA,
    "U22",
    "common question, zip() of two loaders with shuffle=True for noisy and clean images",
    "label_misaligned no_learning constant_prediction loss_plateau",
)
def noisy_and_clean_images_shuffled_apart(seed: int, repaired: bool) -> Program:
    clean = data.digits(seed)
    samples = Data(
        clean.x + 0.7 * torch.randn(clean.x.shape),
        clean.x if repaired else clean.x[torch.randperm(len(clean.x))],
        clean.x_test + 0.7 * torch.randn(clean.x_test.shape),
        clean.x_test,
    )
    model = mlp(64, 64, 64, 64)
    program = Program(model, samples, nn.MSELoss(), squared_error, 2e-3, Adam, 500, 64)
    if not repaired:
        program.collate = lambda _, x, y: (x, y[torch.randperm(len(y))])
    return program


@published(
    DATA,
    "U23",
    "common question, -999 stands for missing values of a table",
    "unnormalised_input initial_loss_anomaly exploding_gradient loss_spike",
)
def missing_values_are_minus_999(seed: int, repaired: bool) -> Program:
    samples = data.friedman(seed)
    for x in (samples.x, samples.x_test):
        x[torch.rand(x.shape) < 0.03] = 0.0 if repaired else -999.0
    return Program(mlp(10, 64, 64, 1), samples, nn.MSELoss(), squared_error, 2e-3, Adam, 500)


@published(
    DATA,
    "U24",
    "discuss.pytorch.org 98896, forecast of an LSTM is a straight line",
    "unnormalised_input target_not_scaled saturated_activation learning_rate_too_low "
    "bias_drift constant_prediction initial_loss_anomaly",
)
def passengers_in_their_own_unit(seed: int, repaired: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 1, 32, 1, every=True)
    program = Program(model, data.waves(seed), nn.MSELoss(), squared_error, 5e-3, Adam, 400)
    if not repaired:
        program.with_inputs(lambda x: 280 + 80 * x)
        program.with_targets(lambda y: 280 + 80 * y)
    return program


def few_columns(x: Tensor) -> Tensor:
    """Return only the first five columns, four times: an error of the join of the tables."""
    return torch.cat([x[:, :5]] * 4, 1)


@published(
    DATA,
    "U25",
    "common question, join of tables repeats the columns of the first one",
    "constant_input loss_plateau overfitting",
)
def columns_of_the_first_table_twice(seed: int, repaired: bool) -> Program:
    program = Program(
        mlp(20, 64, 64, 5), data.clusters(seed), CrossEntropy(), error_rate, 2e-3, Adam, 400
    )
    if not repaired:
        program.with_inputs(few_columns)
    return program
