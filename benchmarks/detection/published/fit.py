"""Models that fit the training samples only, and trainings that stop learning without a defect."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW

from detection import data
from detection.bases import error_rate
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, cnn, mlp, sgd
from detection.published.register import published


@published(Class.FIT, "F046", "GitHub tautvydasversockas/MovieReviews_Keras", "overfitting")
def two_hundred_samples_of_500_features(seed: int, repaired: bool) -> Program:
    everything = parts.column(parts.classification(seed, 500, 15, n_samples=1200))
    loss = BinaryCrossEntropy()
    if repaired:
        optimizer = partial(AdamW, weight_decay=1.0)
        model = mlp(500, 16, 1, dropout=0.5)
        program = Program(model, everything, loss, loss, 3e-4, optimizer, 100, 64)
    else:
        samples = replace(everything, x=everything.x[:200], y=everything.y[:200])
        program = Program(mlp(500, 64, 64, 1), samples, loss, loss, 1e-3, steps=500)
    program.validate_every = 20
    return program


@published(Class.FIT, "F090", "DeepCrime, TRD delete 95 %", "overfitting")
def ninety_digits(seed: int, repaired: bool) -> Program:
    samples, steps, size = parts.digits(seed, image=True), 500, 32
    if repaired:
        steps, size = 120, 64
    else:
        samples = replace(samples, x=samples.x[:90], y=samples.y[:90])
    program = Program(
        cnn(), samples, CrossEntropy(), error_rate, 1e-3, steps=steps, batch_size=size
    )
    program.validate_every = 20
    return program


@published(Class.FIT, "F138", "this project", "loss_plateau")
def parity_of_eight_bits(_: int, repaired: bool) -> Program:
    number = torch.arange(256)
    x = torch.stack([(number >> bit) & 1 for bit in range(8)], 1).float()
    y = x.sum(1).long() % 2
    samples, loss = data.Data(x, y, x, y), CrossEntropy()
    if repaired:
        program = Program(mlp(8, 256, 2), samples, loss, error_rate, 1e-2, steps=500)
    else:
        program = Program(mlp(8, 16, 2), samples, loss, error_rate, 0.05, sgd(), 500)
    program.batch_size, program.sample = 256, parts.whole
    return program


ANGLES = torch.arange(8) * math.pi / 4
RING = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
"""The centres of the eight Gaussians, on the unit circle; the deviation is 0.05."""


@published(Class.FIT, "F144", "this project", "vanishing_gradient constant_prediction")
def generator_against_a_strong_critic(_: int, repaired: bool) -> Program:
    model = nn.ModuleDict({"generator": mlp(8, 64, 64, 2), "critic": mlp(2, 128, 128, 1)})
    noise = torch.randn(1000, 8)
    samples = data.Data(noise, noise, noise, noise)
    critic_lr = 2e-3 if repaired else 5e-3
    program = Program(
        model, samples, functional.binary_cross_entropy_with_logits, modes_missed, 1e-3, steps=600
    )
    program.parameters = lambda model: model
    program.optimizer = lambda model, lr: [
        Adam(model["generator"].parameters(), lr, betas=(0.5, 0.9)),
        Adam(model["critic"].parameters(), critic_lr, betas=(0.5, 0.9)),
    ]
    program.forward = lambda model, x: model["generator"](x)
    program.step = partial(adversarial_step, critic_steps=1 if repaired else 5)
    program.loss_falls = False
    return program


def adversarial_step(
    program: Program, optimizers: Any, monitor: Any, _: int, *, critic_steps: int
) -> None:
    """Train the critic `critic_steps` times and then the generator, 64 samples each."""
    of_generator, of_critic = optimizers
    generator, critic = program.model["generator"], program.model["critic"]  # type: ignore[index]
    real_label, made_label = torch.ones(64, 1), torch.zeros(64, 1)
    for _ in range(critic_steps):
        real = RING[torch.randint(8, (64,))] + 0.05 * torch.randn(64, 2)
        made = generator(torch.randn(64, 8)).detach()
        of_critic.zero_grad()
        loss = program.loss(critic(real), real_label) + program.loss(critic(made), made_label)
        loss.backward()
        of_critic.step()
    of_generator.zero_grad()
    monitor.loss(program.loss(critic(generator(torch.randn(64, 8))), real_label)).backward()
    of_generator.step()


def modes_missed(output: Tensor, _: Tensor) -> Tensor:
    """Share of the eight Gaussians with less than 2 % of the samples within 0.25."""
    near = torch.cdist(output, RING) < 0.25
    return (near.float().mean(0) < 0.02).float().mean()
