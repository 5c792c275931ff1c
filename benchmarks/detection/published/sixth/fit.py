"""Models that cannot fit, or fit too well, after questions and issues on PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from detection import data, models
from detection.bases import TokenLoss, error_rate, squared_error, token_loss
from detection.case import Class
from detection.program import Data, Program
from detection.published.fifth.fit import first
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published

FIT = Class.FIT


def located(seed: int) -> Data:
    """Noisy images of 16 x 16 with a bright square; its row and column, standardised."""
    place = torch.randint(13, (1500, 2))
    x = 0.3 * torch.randn(1500, 1, 16, 16)
    for image, (row, column) in zip(x, place.tolist(), strict=True):
        image[0, row : row + 4, column : column + 4] += 1
    return data.split(x, (place.float() - 6) / 3.7, seed)


@published(
    FIT,
    "U80",
    "chensong1995/HybridPose#29, hysts/pytorch_mpiigaze#20",
    "loss_plateau constant_prediction no_learning",
)
def place_averaged_away(seed: int, repaired: bool) -> Program:
    size = 4 if repaired else 1
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(size),
        nn.Flatten(),
        nn.Linear(32 * size * size, 2),
    )
    return Program(model, located(seed), nn.MSELoss(), squared_error, 3e-3, Adam, 300)


def seasons(seed: int, *, window: int) -> Data:
    """Windows of a noisy series that repeats itself after 24 values; the next value."""
    season = torch.randn(2400, 24)
    series = torch.cat([season, season[:, :1]], 1) + 0.2 * torch.randn(2400, 25)
    return data.split(series[:, :24][:, -window:], series[:, 24:], seed)


@published(
    FIT,
    "U81",
    "common question, window of 6 hours for values that repeat themselves after a day",
    "loss_plateau no_learning constant_prediction overfitting",
)
def window_shorter_than_the_season(seed: int, repaired: bool) -> Program:
    window = 24 if repaired else 6
    model, samples = mlp(window, 64, 1), seasons(seed, window=window)
    return Program(model, samples, nn.MSELoss(), squared_error, 2e-3, Adam, 400)


@published(
    FIT,
    "U82",
    "common question, nn.Linear(2, 3) for classes that no line separates",
    "loss_plateau missing_nonlinearity no_learning",
)
def linear_model_for_rings(seed: int, repaired: bool) -> Program:
    model = mlp(2, 32, 3) if repaired else nn.Linear(2, 3)
    return Program(model, data.rings(seed), CrossEntropy(), error_rate, 1e-2, Adam, 400)


@published(
    FIT,
    "U83",
    "common question, language model learns twenty sentences by heart",
    "overfitting",
)
def language_model_of_twenty_sentences(seed: int, repaired: bool) -> Program:
    model, samples = models.Transformer(16, 20), data.chain(seed)
    program = Program(model, samples, TokenLoss(), token_loss, 3e-3, AdamW, 300, 16)
    if not repaired:
        program.data = first(samples, 20)
    program.validate_every = 10
    return program


@published(
    FIT,
    "U84",
    "common question, dropout of one half after each of four layers of 16 units",
    "over_regularised loss_plateau undertrained",
)
def dropout_in_every_narrow_layer(seed: int, repaired: bool) -> Program:
    model = mlp(10, 16, 16, 16, 16, 1, dropout=0.0 if repaired else 0.5)
    return Program(model, data.friedman(seed), nn.MSELoss(), squared_error, 3e-3, Adam, 500)


def noisy_columns(seed: int) -> Data:
    """Two classes that four of 200 columns tell apart."""
    x = torch.randn(1400, 200)
    return data.split(x, (x[:, :4].sum(1) > 0).long(), seed)


@published(
    FIT,
    "U85",
    "common question, 100 % accuracy in training and 60 % in the test with 60 patients",
    "overfitting",
)
def sixty_rows_of_two_hundred_columns(seed: int, repaired: bool) -> Program:
    samples, loss = noisy_columns(seed), CrossEntropy()
    program = Program(mlp(200, 64, 64, 2), samples, loss, error_rate, 1e-3, Adam, 300)
    if not repaired:
        program.data = first(samples, 60)
    program.validate_every = 10
    return program


class WordOrder(nn.Module):
    """Word vectors: their mean, or a recurrent network on them."""

    def __init__(self, *, ordered: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 32)
        self.rnn = nn.GRU(32, 32, batch_first=True) if ordered else None
        self.head = mlp(32, 32, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x)
        return self.head(self.rnn(h)[0].amax(1) if self.rnn else h.mean(1))  # type: ignore[no-any-return]


def negated(seed: int) -> Data:
    """Texts of 10 words with a good and a bad one; word 0 before one of them turns it over."""
    x = torch.randint(3, 20, (2400, 10))
    rows, good_first = torch.arange(2400), torch.rand(2400) < 0.5
    x[rows, 2], x[rows, 6] = 2 - good_first.long(), 1 + good_first.long()
    before = torch.where(torch.rand(2400) < 0.5, 1, 5)
    x[rows, before] = 0
    kept = torch.where(before == 1, x[rows, 6], x[rows, 2])
    return data.split(x, (kept == 1).long(), seed)


@published(
    FIT,
    "U86",
    "common question, mean of the word vectors for sentences with 'not'",
    "loss_plateau no_learning constant_prediction overfitting",
)
def mean_of_the_words_of_negated_texts(seed: int, repaired: bool) -> Program:
    model = WordOrder(ordered=repaired)
    return Program(model, negated(seed), CrossEntropy(), error_rate, 5e-3, Adam, 300)
