"""Initial weights that do not fit the layer or the activation."""

from __future__ import annotations

from functools import partial

from torch import nn

from detection.bases import error_rate
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import (
    BinaryCrossEntropy,
    CrossEntropy,
    cnn,
    initialise,
    mlp,
    normal_,
    sgd,
    wrong_side,
)
from detection.published.register import published

INITIALISATION = Class.INITIALISATION
TOO_LARGE = "init_scale_too_large initial_loss_anomaly exploding_gradient"
he = partial(nn.init.kaiming_normal_, nonlinearity="relu")
lecun = partial(nn.init.kaiming_normal_, nonlinearity="linear")


@published(INITIALISATION, "F050", "TheDeepChecker, wrong_init; Stack Overflow 56541683", TOO_LARGE)
def kernels_with_deviation_one(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed, image=True), cnn()
    if not repaired:
        normal_(model, 1.0)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=150, batch_size=64)


@published(
    INITIALISATION,
    "F064",
    "TheDeepChecker, wrong_activation",
    "init_activation_mismatch vanishing_gradient",
)
def sigmoid_with_he_initialisation(seed: int, repaired: bool) -> Program:
    model = cnn(activation=nn.ReLU if repaired else nn.Sigmoid, widths=(16, 32, 32))
    samples = parts.digits(seed, image=True)
    return Program(initialise(model, he), samples, CrossEntropy(), error_rate, 0.1, sgd(), 250, 64)


@published(
    INITIALISATION, "F068", "Stack Overflow 39817949", "saturated_activation init_scale_too_large"
)
def sigmoid_with_deviation_one(seed: int, repaired: bool) -> Program:
    samples = parts.column(parts.classification(seed, 30, 10))
    model = mlp(30, 64, 64, 1, activation=nn.ReLU if repaired else nn.Sigmoid)
    if not repaired:
        normal_(model, 1.0)
    return Program(model, samples, BinaryCrossEntropy(), wrong_side(0.0), 0.1, sgd(), 200)


@published(
    INITIALISATION,
    "F102",
    "DeepCrime, WCI zeros",
    "symmetric_init dead_relu loss_plateau no_gradient",
)
def all_zeros(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed), mlp(64, 64, 64, 10)
    if not repaired:
        initialise(model, nn.init.zeros_)
    return Program(model, samples, CrossEntropy(), error_rate, 0.1, sgd(), 200, 64)


@published(INITIALISATION, "F104", "DeepCrime, WCI random_normal", TOO_LARGE)
def weights_with_deviation_one(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed), mlp(64, 256, 256, 10)
    if repaired:
        return Program(model, samples, CrossEntropy(), error_rate, 0.1, sgd(), 200, 64)
    normal_(model, 1.0)
    return Program(model, samples, CrossEntropy(), error_rate, 0.01, sgd(), 200, 64)


@published(
    INITIALISATION,
    "F146",
    "this project, after the recipe of Karpathy",
    "init_activation_mismatch vanishing_gradient init_scale_too_small",
)
def thirty_relu_layers_with_xavier(seed: int, repaired: bool) -> Program:
    model = mlp(64, *[64] * (2 if repaired else 30), 10)
    initialise(model, he if repaired else nn.init.xavier_normal_)
    lr, samples = 0.1 if repaired else 0.01, parts.digits(seed)
    return Program(model, samples, CrossEntropy(), error_rate, lr, sgd(), 150, 64)


@published(
    INITIALISATION,
    "F148",
    "this project, after Klambauer et al.",
    "init_activation_mismatch exploding_gradient",
)
def twenty_selu_layers_with_he(seed: int, repaired: bool) -> Program:
    model = initialise(mlp(64, *[64] * 20, 10, activation=nn.SELU), lecun if repaired else he)
    samples = parts.digits(seed)
    program = Program(model, samples, CrossEntropy(), error_rate, 0.01, sgd(), 150, 64)
    if repaired:
        program.with_inputs(lambda x: (x - x.mean()) / x.std())
    return program
