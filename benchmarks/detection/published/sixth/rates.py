"""Faults of the optimizer and its schedule, after questions and issues on PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detection import data, models
from detection.bases import TokenLoss, error_rate, momentum, squared_error, token_loss
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, figures, mlp
from detection.published.register import published
from detection.published.sixth.losses import TextConvolution, many_topics

OPTIMIZER = Class.OPTIMIZER


@published(
    OPTIMIZER,
    "U30",
    "pytorch/pytorch#78917, lhoyer/MIC#60",
    "learning_rate_too_low undertrained loss_plateau schedule_ended_early",
)
def schedule_returns_the_rate_in_place_of_a_factor(seed: int, repaired: bool) -> Program:
    model = models.Transformer(16, 20)
    program = Program(model, data.chain(seed), TokenLoss(), token_loss, 3e-3, Adam, 300, 16)
    program.schedule = lambda optimizer, steps: LambdaLR(
        optimizer, lambda step: (1.0 if repaired else 3e-3) * (1 - 0.9 * step / steps)
    )
    return program


@published(
    OPTIMIZER,
    "U31",
    "pytorch/pytorch#47175, zero_grad() once per epoch and not per batch",
    "missing_zero_grad learning_rate_too_high loss_oscillation loss_divergence loss_spike",
)
def gradients_cleared_once_per_epoch(seed: int, repaired: bool) -> Program:
    program = Program(cnn(3, size=16), figures(seed), CrossEntropy(), error_rate, 0.02, momentum)
    program.steps, program.zero_grad = 400, repaired

    def clear(step: int, _: Program, optimizer: Optimizer) -> None:
        if not repaired and step % 21 == 20:
            optimizer.zero_grad()

    program.events.append(clear)
    return program


@published(
    OPTIMIZER,
    "U32",
    "zju3dv/Vox-Fusion#31, alan-turing-institute/deepsensor#47",
    "learning_rate_too_high loss_oscillation gradient_noise_dominates state_not_restored "
    "loss_plateau",
)
def adam_created_again_for_each_batch(seed: int, repaired: bool) -> Program:
    samples = data.quadratic(seed)
    program = Program(mlp(6, 64, 64, 1), samples, nn.MSELoss(), squared_error, 3e-3, Adam, 500)

    def forget(_: int, __: Program, optimizer: Optimizer) -> None:
        if not repaired:
            optimizer.state.clear()

    program.events.append(forget)
    return program


@published(
    OPTIMIZER,
    "U33",
    "DeepReinforcementLearning/DeepReinforcementLearningInAction#13",
    "parameter_not_updated undertrained learning_rate_too_low loss_plateau",
)
def one_step_per_epoch(seed: int, repaired: bool) -> Program:
    model = models.Recurrent(nn.GRU, 4, 24, 4)
    program = Program(model, data.cue(seed), CrossEntropy(), error_rate, 5e-3, Adam, 360)

    def train(program: Program, optimizer: Any, monitor: Any, step: int) -> None:
        chosen = torch.randint(len(program.data.x), (32,))
        optimizer.zero_grad()
        output = program.model(program.data.x[chosen])
        monitor.loss(program.loss(output, program.data.y[chosen])).backward()
        if repaired or step % 36 == 35:
            optimizer.step()

    program.step = train
    return program


@published(
    OPTIMIZER,
    "U34",
    "common question, fine-tuning at the rate of a training from scratch forgets the pretraining",
    "learning_rate_too_high loss_spike loss_divergence overfitting dead_relu exploding_gradient",
)
def fine_tuning_at_a_rate_of_a_twentieth(seed: int, repaired: bool) -> Program:
    model, samples = cnn(), parts.digits(seed, image=True)
    optimizer = Adam(model.parameters(), 2e-3)
    for _ in range(250):
        chosen = torch.randint(len(samples.x), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(model(samples.x[chosen]), samples.y[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    rate = 3e-4 if repaired else 0.05
    program = Program(model, samples, CrossEntropy(), error_rate, rate, Adam, 300)
    program.with_inputs(lambda x: 0.7 * x + 0.15 * torch.rand(x.shape))
    return program


@published(
    OPTIMIZER,
    "U35",
    "common question, autoencoder with Adam(lr=0.1) returns the mean image",
    "learning_rate_too_high dead_relu loss_divergence loss_spike constant_prediction "
    "initial_loss_anomaly loss_plateau",
)
def autoencoder_at_a_rate_of_a_tenth(seed: int, repaired: bool) -> Program:
    samples = data.digits(seed, reconstruct=True)
    model = mlp(64, 48, 16, 48, 64)
    rate = 2e-3 if repaired else 0.1
    return Program(model, samples, nn.MSELoss(), squared_error, rate, Adam, 400, 64)


@published(
    OPTIMIZER,
    "U36",
    "common question, SGD(lr=0.01) for a text classifier with word vectors",
    "learning_rate_too_low undertrained loss_plateau",
)
def plain_descent_for_a_text_classifier(seed: int, repaired: bool) -> Program:
    model = TextConvolution(300, 40, nn.Identity())
    program = Program(model, many_topics(seed), CrossEntropy(), error_rate, 0.01, SGD, 400, 64)
    if repaired:
        program.optimizer, program.lr = Adam, 3e-3
    return program
