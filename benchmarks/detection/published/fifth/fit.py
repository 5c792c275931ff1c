"""Runs that overfit, underfit or stop too early, after common questions on PyTorch."""

from __future__ import annotations

from torch import nn
from torch.optim import Adam, AdamW

from detection import data, models
from detection.bases import TokenLoss, squared_error, token_loss
from detection.case import Class
from detection.program import Data, Program
from detection.published.fourth.graphs import Convolutions, community
from detection.published.fourth.samples import Bag, topics
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published

FIT = Class.FIT


def positive(seed: int) -> Data:
    """Friedman's first problem with targets around 3."""
    samples = data.friedman(seed)
    return Data(samples.x, samples.y + 3, samples.x_test, samples.y_test + 3)


@published(
    FIT,
    "T80",
    "common question, dropout after the last layer of a regression network",
    "over_regularised loss_plateau gradient_noise_dominates",
)
def dropout_on_the_forecast(seed: int, repaired: bool) -> Program:
    model = mlp(10, 64, 64, 1, output=None if repaired else nn.Dropout(0.5))
    return Program(model, positive(seed), nn.MSELoss(), squared_error, 3e-3, Adam, 300)


def first(samples: Data, count: int) -> Data:
    """Return the data with the first `count` training samples only."""
    return Data(samples.x[:count], samples.y[:count], samples.x_test, samples.y_test)


@published(FIT, "T81", "common question, graph network on twelve graphs", "overfitting")
def graph_network_on_twelve_graphs(seed: int, repaired: bool) -> Program:
    samples, loss = community(seed, noise=2.5), CrossEntropy()
    program = Program(Convolutions(3, 64), samples, loss, loss, 3e-3, Adam, 160, 12)
    if not repaired:
        program.data = first(samples, 12)
    program.validate_every = 10
    return program


@published(
    FIT,
    "T82",
    "common question, hidden_size=1 because there is one output",
    "loss_plateau",
)
def one_hidden_unit_for_one_output(seed: int, repaired: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 1, 32 if repaired else 1, 1, every=True)
    return Program(model, data.waves(seed), nn.MSELoss(), squared_error, 1e-2, Adam, 250)


@published(
    FIT,
    "T83",
    "common question, language model still improves at the last step",
    "undertrained learning_rate_too_low",
)
def forty_steps_of_a_language_model(seed: int, repaired: bool) -> Program:
    model = models.Transformer(16, 20)
    program = Program(model, data.chain(seed), TokenLoss(), token_loss, 5e-4, AdamW, 40, 16)
    if repaired:
        program.steps = 250
    return program


@published(
    FIT,
    "T84",
    "common question, validation loss of a text classifier rises after the first epochs",
    "overfitting",
)
def word_vectors_learn_a_hundred_texts(seed: int, repaired: bool) -> Program:
    samples, loss = topics(seed, length=8), CrossEntropy()
    program = Program(Bag(200, 3), samples, loss, loss, 5e-3, Adam, 200)
    if not repaired:
        program.data = first(samples, 100)
    program.validate_every = 10
    return program


@published(
    FIT,
    "T85",
    "common question, nn.Dropout(0.8) on ten columns of a table",
    "over_regularised loss_plateau undertrained",
)
def four_fifths_of_the_columns_dropped(seed: int, repaired: bool) -> Program:
    model = nn.Sequential(nn.Dropout(0.0 if repaired else 0.8), mlp(6, 64, 64, 1))
    return Program(model, data.quadratic(seed), nn.MSELoss(), squared_error, 3e-3, Adam, 300)
