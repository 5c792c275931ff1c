"""Signals that vanish or explode between the layers, and models without non-linearity."""

from __future__ import annotations

import torch
from torch import nn

from detection import data
from detection.bases import error_rate
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import (
    BinaryCrossEntropy,
    CrossEntropy,
    LastState,
    mlp,
    normal_,
    sgd,
    wrong_side,
)
from detection.published.register import published

LINEAR = "missing_nonlinearity loss_plateau"


@published(
    Class.FLOW,
    "F012",
    "Stack Overflow 39217567",
    "vanishing_gradient saturated_activation learning_rate_too_low loss_task_mismatch",
)
def sigmoid_layers_with_tiny_weights(seed: int, repaired: bool) -> Program:
    x = (torch.rand(1000, 32) > 0.5).float()
    samples = data.split(x, x, seed)
    if repaired:
        model = mlp(32, 32, 32, 32)
        return Program(model, samples, BinaryCrossEntropy(), wrong_side(0.0), 1e-2, steps=300)
    model = normal_(mlp(32, 32, 32, 32, activation=nn.Sigmoid, output=nn.Sigmoid()), 0.05)
    return Program(model, samples, nn.MSELoss(), wrong_side(0.5), 0.01, sgd(), 400, 50)


@published(Class.FLOW, "F074", "Stack Overflow 51835124, 53640858", LINEAR)
def circles_without_activations(seed: int, repaired: bool) -> Program:
    model = mlp(2, 16, 16, 2) if repaired else mlp(2, 3, 3, 2, activation=None)
    lr, samples = 0.3 if repaired else 0.1, parts.circles(seed)
    return Program(model, samples, CrossEntropy(), error_rate, lr, sgd(), 300)


@published(Class.FLOW, "F098", "DeepCrime, ARM remove_activation", LINEAR)
def moons_without_activations(seed: int, repaired: bool) -> Program:
    from sklearn.datasets import make_moons

    x, y = make_moons(1000, noise=0.1, random_state=0)
    samples = data.split(parts.floats(x), torch.tensor(y), seed)
    model = mlp(2, 16, 16, 2, activation=nn.ReLU if repaired else None)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-2, steps=300)


@published(
    Class.FLOW, "F076", "AutoTrainer, circle, gradient vanish", "vanishing_gradient loss_plateau"
)
def fifteen_sigmoid_layers(seed: int, repaired: bool) -> Program:
    model = mlp(2, 32, 32, 1) if repaired else mlp(2, *[10] * 15, 1, activation=nn.Sigmoid)
    lr, samples = 0.3 if repaired else 0.05, parts.column(parts.circles(seed))
    return Program(model, samples, BinaryCrossEntropy(), wrong_side(0.0), lr, sgd(), 300)


@published(
    Class.FLOW,
    "F078",
    "AutoTrainer, circle, gradient explode",
    "exploding_gradient init_scale_too_large non_finite_value initial_loss_anomaly",
)
def fifteen_relu_layers_of_gain_four(seed: int, repaired: bool) -> Program:
    model = mlp(2, 64, 64, 1) if repaired else normal_(mlp(2, *[64] * 15, 1), 0.5)
    lr, samples = 0.3 if repaired else 0.01, parts.column(parts.circles(seed))
    return Program(model, samples, BinaryCrossEntropy(), wrong_side(0.0), lr, sgd(), 200)


@published(Class.FLOW, "F080", "AutoTrainer, RNN vanish", "vanishing_gradient loss_plateau")
def recurrent_weights_with_deviation_0_02(seed: int, repaired: bool) -> Program:
    samples, model = parts.first_step_cue(seed, 50), LastState(nn.GRU if repaired else nn.RNN)
    recurrent = model.rnn.weight_hh_l0
    if repaired:
        for gate in recurrent.data.chunk(3):
            nn.init.orthogonal_(gate)
        nn.init.constant_(model.rnn.bias_hh_l0[32:64], 2.0)
        return Program(model, samples, CrossEntropy(), error_rate, 3e-3, steps=200)
    nn.init.normal_(recurrent, 0, 0.02)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=200)
