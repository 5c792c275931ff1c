"""Data that is paired, scaled or fitted wrongly, after questions and issues on PyTorch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from detection import data, models
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, cnn, mlp, sgd
from detection.published.register import published
from detection.published.third.losses import (
    Spots,
    error_of_the_image,
    images,
    overlap_missed,
    spots,
)

DATA, FIT = Class.DATA, Class.FIT


@published(
    DATA,
    "Q40",
    "PyTorch forum, masks in the order of os.listdir and images in that of their numbers",
    "label_misaligned class_collapse loss_plateau",
)
def masks_sorted_as_text(seed: int, repaired: bool) -> Program:
    samples = spots(seed, 5)
    program = Program(Spots(), samples, BinaryCrossEntropy(), overlap_missed, 5e-3, steps=250)
    if not repaired:
        order = sorted(range(len(samples.y)), key=str)
        program.with_targets(lambda y: y[order], test=False)
    return program


@published(
    DATA,
    "Q41",
    "PyTorch forum, ToTensor in the test only",
    "unnormalised_input overfitting",
)
def training_to_255_and_test_to_1(seed: int, repaired: bool) -> Program:
    samples = parts.figures(seed)
    if not repaired:
        samples = replace(samples, x=255 * samples.x)
    model = cnn(3, size=16)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=250)
    program.validate_every = 20
    return program


@published(
    DATA,
    "Q42",
    "Stack Overflow, MinMaxScaler with 999999 for a missing value",
    "unnormalised_input constant_or_duplicate_input learning_rate_too_low",
)
def scaled_by_the_code_for_missing(seed: int, repaired: bool) -> Program:
    program = Program(
        mlp(10, 64, 1), data.friedman(seed), nn.MSELoss(), squared_error, 3e-3, steps=300
    )
    if not repaired:
        low = program.data.x.amin(0)
        program.with_inputs(lambda x: (x - low) / (999999 - low))
    return program


@published(
    DATA,
    "Q43",
    "Stack Overflow, houses sorted by price and shuffle=False",
    "data_order loss_oscillation gradient_noise_dominates",
)
def targets_sorted_and_not_shuffled(seed: int, repaired: bool) -> Program:
    samples = data.friedman(seed)
    program = Program(mlp(10, 64, 1), samples, nn.MSELoss(), squared_error, 0.1, sgd(), 470)
    if not repaired:
        order = samples.y[:, 0].argsort()
        program.data = replace(samples, x=samples.x[order], y=samples.y[order])
        program.sample = parts.in_order
    return program


@published(
    DATA,
    "Q44",
    "PyTorch forum, __getitem__ returns the label of the first sample",
    "trivial_target class_collapse class_imbalance",
)
def every_label_is_that_of_the_first_sample(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    program = Program(cnn(), samples, CrossEntropy(), error_rate, 1e-3, steps=200)
    if not repaired:
        program.with_targets(lambda y: y[:1].expand(len(y)).clone(), test=False)
    return program


@published(
    DATA,
    "Q45",
    "PyTorch forum, transform that changes the cached samples in place",
    "unnormalised_input constant_or_duplicate_input",
    onset=21,
)
def samples_divided_again_in_every_epoch(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed)
    program = Program(mlp(64, 64, 10), samples, CrossEntropy(), error_rate, 1e-3, steps=300)
    program.batch_size = 64
    if not repaired:
        program.collate = lambda step, x, y: (x / 16.0 ** min(step // 21, 8), y)
    return program


@published(FIT, "Q46", "PyTorch forum, LSTM on a small data set", "overfitting")
def recurrent_network_on_forty_sequences(seed: int, repaired: bool) -> Program:
    samples = data.cue(seed)
    if not repaired:
        samples = replace(samples, x=samples.x[:40], y=samples.y[:40])
    model, loss = models.Recurrent(nn.LSTM, 4, 64, 4), CrossEntropy()
    program = Program(model, samples, loss, loss, 5e-3, steps=300)
    program.validate_every = 15
    return program


@published(
    FIT,
    "Q47",
    "PyTorch forum, training goes on after the validation loss has turned",
    "overfitting label_noise",
)
def noisy_labels_learned_by_heart(seed: int, repaired: bool) -> Program:
    loss, samples = CrossEntropy(), parts.classification(seed, 30, 10, n_samples=800, flip_y=0.4)
    program = Program(mlp(30, 256, 256, 2), samples, loss, loss, 1e-3, steps=400)
    program.validate_every = 10
    if repaired:
        program.steps = 30
    return program


@published(
    FIT,
    "Q48",
    "PyTorch forum, autoencoder that returns the mean image",
    "loss_plateau",
)
def code_of_a_single_number(seed: int, repaired: bool) -> Program:
    model = mlp(64, 64, 16 if repaired else 1, 64, 64)
    return Program(model, images(seed), nn.MSELoss(), image_error, 2e-3, Adam, 400, 64)


def image_error(output: Any, target: Tensor) -> Tensor:
    """Squared error over the variance within a pixel."""
    return error_of_the_image((output,), target)


@published(
    FIT,
    "Q49",
    "Stack Overflow, polynomial features of a high degree",
    "overfitting",
)
def as_many_features_as_samples(seed: int, repaired: bool) -> Program:
    g = data.generator(seed)
    x = torch.randn(400, 5, generator=g)
    y = torch.sin(x[:, :1]) + 0.5 * x[:, 1:2] + 0.7 * torch.randn(400, 1, generator=g)
    features = torch.tanh(x @ (2 * torch.randn(5, 300, generator=g)))
    inputs = x if repaired else features
    samples = data.split(inputs, y, seed)
    model, loss = mlp(inputs.shape[1], 128, 1), nn.MSELoss()
    program = Program(model, samples, loss, squared_error, 1e-3, steps=400)
    program.validate_every = 20
    return program
