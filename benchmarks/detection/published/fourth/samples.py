"""Data that do not fit the model or the labels, after questions and issues on PyTorch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Adam

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.fourth.rates import Ratings, ratings
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, mlp
from detection.published.register import published
from detection.published.third.losses import Spots, overlap_missed, spots

DATA = Class.DATA


@published(
    DATA,
    "R30",
    "common question, RandomHorizontalFlip of the image and not of the mask",
    "label_misaligned wrong_augmentation loss_plateau",
)
def images_flipped_without_their_masks(seed: int, repaired: bool) -> Program:
    def flipped(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        flip = torch.rand(len(x), 1, 1, 1) < 0.5
        turned = torch.where(flip, x.flip(3), x)
        return turned, torch.where(flip, y.flip(3), y) if repaired else y

    program = Program(Spots(), spots(seed, 4), BinaryCrossEntropy(), overlap_missed, 3e-3)
    program.steps, program.batch_size, program.collate = 200, 16, flipped
    return program


@published(
    DATA,
    "R31",
    "common question, ids of users and items as numbers",
    "unnormalised_input loss_plateau initial_loss_anomaly learning_rate_too_high",
)
def identifiers_as_features(seed: int, repaired: bool) -> Program:
    samples = ratings(seed)
    model = Ratings(100, 60, 4) if repaired else mlp(2, 32, 32, 1)
    program = Program(model, samples, nn.MSELoss(), squared_error, 0.01, Adam, 400, 128)
    if not repaired:
        program.with_inputs(lambda x: 10000 + 37 * x)
    return program


class Bag(nn.Module):
    """The mean of the words' vectors and a small network."""

    def __init__(self, words: int, classes: int) -> None:
        super().__init__()
        self.words, self.body = nn.EmbeddingBag(words, 24), mlp(24, 32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.words(x))  # type: ignore[no-any-return]


def topics(seed: int, *, length: int = 20) -> Data:
    """Texts of 200 words in three topics; word 0 stands for unknown ones."""
    y = torch.randint(3, (2000,))
    share = torch.softmax(1.2 * torch.randn(3, 199), 1)
    return data.split(1 + torch.multinomial(share[y], length, True), y, seed)


@published(
    DATA,
    "R32",
    "common question, vocabulary in lower case and texts that are not",
    "constant_input no_learning class_collapse constant_prediction",
)
def almost_every_word_unknown(seed: int, repaired: bool) -> Program:
    program = Program(Bag(200, 3), topics(seed), CrossEntropy(), error_rate, 5e-3, steps=200)
    if not repaired:
        program.with_inputs(lambda x: torch.where(x % 50 == 1, x, 0))
    return program


@published(
    DATA,
    "R33",
    "common question, some rows of a sensor in another unit",
    "unnormalised_input loss_spike constant_input",
)
def one_reading_in_a_hundred_in_millivolts(seed: int, repaired: bool) -> Program:
    samples = data.friedman(seed)
    if not repaired:
        for x in (samples.x, samples.x_test):
            x[torch.rand(x.shape) < 0.01] *= 1000
    x = samples.x
    mean, deviation = x.mean(0), x.std(0)
    samples = replace(samples, x=(x - mean) / deviation)
    samples = replace(samples, x_test=(samples.x_test - mean) / deviation)
    return Program(mlp(10, 64, 1), samples, nn.MSELoss(), squared_error, 3e-3, Adam, 300)


class Alarm(nn.Module):
    """A GRU with one logit for each sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))  # type: ignore[no-any-return]


@published(
    DATA,
    "R34",
    "common question, LSTM predicts no anomaly at all",
    "class_imbalance class_collapse output_bias_prior",
)
def three_anomalies_in_a_hundred(seed: int, repaired: bool) -> Program:
    y = (torch.rand(4000, 1) < 0.03).float()
    x = torch.randn(4000, 20, 3) + 0.45 * y[:, None]
    weight = torch.tensor(97 / 3) if repaired else None
    loss = BinaryCrossEntropy(pos_weight=weight)
    return Program(Alarm(), data.split(x, y, seed), loss, missed, 5e-3, Adam, 200, 64)


def missed(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong decisions, averaged over both classes."""
    wrong = ((output > 0) != (target > 0.5)).float()
    return (wrong[target > 0.5].mean() + wrong[target < 0.5].mean()) / 2


@published(
    DATA,
    "R35",
    "common question, Normalize in the dataset and again in the model with swapped arguments",
    "unnormalised_input",
)
def mean_and_deviation_exchanged(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed)
    samples = replace(samples, x=255 * samples.x, x_test=255 * samples.x_test)
    mean, deviation = 78.0, 96.0
    if not repaired:
        mean, deviation = deviation, 0.376
    program = Program(mlp(64, 64, 64, 10), samples, CrossEntropy(), error_rate, 0.05, parts.sgd())
    program.steps = 200
    program.with_inputs(lambda x: (x - mean) / deviation)
    return program
