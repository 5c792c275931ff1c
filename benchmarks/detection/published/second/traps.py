"""Healthy programs that look like faulty ones: data, losses, rates and schedules."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler

from detection import data
from detection.bases import error_rate, squared_error
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import healthy


def digits_program(seed: int, lr: float = 1e-3, optimizer: Any = Adam, steps: int = 400) -> Program:
    """Return a network with one hidden layer on digits with batches of 64."""
    samples = parts.digits(seed)
    return Program(mlp(64, 64, 10), samples, CrossEntropy(), error_rate, lr, optimizer, steps, 64)


@healthy("K01")
def deep_linear_network(seed: int) -> Program:
    x = torch.randn(2000, 12)
    y = x @ torch.randn(12, 2) @ torch.randn(2, 6) + 0.1 * torch.randn(2000, 6)
    model = mlp(12, 8, 4, 8, 6, activation=None)
    return Program(model, data.split(x, y, seed), nn.MSELoss(), squared_error, 1e-2, steps=400)


@healthy("K03")
def batches_of_two(seed: int) -> Program:
    program = digits_program(seed, 0.05, sgd(), 600)
    program.batch_size = 2
    return program


@healthy("K05")
def a_fifth_of_the_labels_random(seed: int) -> Program:
    program = digits_program(seed)
    random = torch.rand(len(program.data.y)) < 0.2
    program.with_targets(lambda y: y.where(~random, torch.randint(10, y.shape)), test=False)
    return program


@healthy("K07")
def few_images_with_strong_augmentation(seed: int) -> Program:
    samples = parts.digits(seed, image=True)
    samples = replace(samples, x=samples.x[:300], y=samples.y[:300])
    program = Program(cnn(), samples, CrossEntropy(), error_rate, 1e-3, steps=500, batch_size=64)
    program.collate = augmented
    program.validate_every = 25
    return program


def augmented(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Shift each batch by at most one pixel, erase a square of it and add noise."""
    row, column = torch.randint(-1, 2, (2,)).tolist()
    x = x.roll((row, column), (2, 3)) + 0.2 * torch.randn_like(x)
    top, left = torch.randint(6, (2,)).tolist()
    x[:, :, top : top + 2, left : left + 2] = 0
    return x, y


@healthy("K09")
def sparse_rewards(seed: int) -> Program:
    x = torch.randn(2000, 8)
    samples = data.split(x, (x @ torch.randn(8, 12)).argmax(1), seed)
    return Program(mlp(8, 64, 12), samples, policy_loss, error_rate, 5e-3, Adam, 600, 128)


def policy_loss(output: Tensor, target: Tensor) -> Tensor:
    """REINFORCE with the batch's mean as baseline; only one of 12 actions has a reward."""
    choice = torch.distributions.Categorical(logits=output)  # type: ignore[no-untyped-call]
    action = choice.sample()  # type: ignore[no-untyped-call]
    reward = (action == target).float()
    chosen: Tensor = choice.log_prob(action)  # type: ignore[no-untyped-call]
    return -((reward - reward.mean()) * chosen).mean()


@healthy("K11")
def warm_restarts(seed: int) -> Program:
    program = digits_program(seed, 0.2, sgd(0.9))
    program.schedule = lambda optimizer, _: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 100)
    return program


@healthy("K13")
def one_cycle(seed: int) -> Program:
    program = digits_program(seed, 0.01, sgd(0.9))
    program.schedule = lambda optimizer, steps: lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=steps + 1
    )
    return program


class NoisySGD(SGD):
    """SGD with Gaussian noise on the gradients that decays, after Neelakantan et al., 2015."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.add_(torch.randn_like(p), alpha=0.05 / self.steps**0.275)
        return super().step(closure)


@healthy("K15")
def noise_on_the_gradients(seed: int) -> Program:
    return digits_program(seed, 0.2, NoisySGD)


@healthy("K17")
def smoothed_labels(seed: int) -> Program:
    program = digits_program(seed)
    program.loss = CrossEntropy(label_smoothing=0.2)
    return program


@healthy("K19")
def distillation(seed: int) -> Program:
    program = digits_program(seed)
    samples, teacher = program.data, mlp(64, 128, 10)
    pretrain(teacher, samples, 300)
    with torch.no_grad():
        soft = (teacher(samples.x) / 4).log_softmax(1)
    program.data = replace(samples, y=soft)
    program.loss = distilled
    return program


def distilled(output: Tensor, target: Tensor) -> Tensor:
    """Return 16 times the divergence from the teacher at temperature 4, after Hinton et al."""
    own = (output / 4).log_softmax(1)
    return 16 * functional.kl_div(own, target, reduction="batchmean", log_target=True)


def pretrain(model: nn.Module, samples: data.Data, steps: int) -> None:
    """Train with Adam before the program starts."""
    optimizer = Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        chosen = torch.randint(len(samples.x), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(model(samples.x[chosen]), samples.y[chosen]).backward()
        optimizer.step()


@healthy("K21")
def frozen_backbone_with_a_new_head(seed: int) -> Program:
    program = digits_program(seed, 1e-2, steps=300)
    backbone = mlp(64, 64, 64, 10)
    pretrain(backbone, program.data, 300)
    backbone[-1] = nn.Linear(64, 10)
    backbone[:-1].requires_grad_(False)
    program.model = backbone
    program.parameters = lambda model: [p for p in model.parameters() if p.requires_grad]
    return program


@healthy("K33")
def quantile_loss(seed: int) -> Program:
    x = torch.rand(3000, 4)
    y = 3 * x[:, :1] + (0.2 + x[:, 1:2]) * torch.randn(3000, 1)
    samples = data.split(x, y, seed)
    return Program(mlp(4, 64, 1), samples, pinball, pinball, 3e-3, steps=400, batch_size=64)


def pinball(output: Tensor, target: Tensor) -> Tensor:
    """Loss whose minimum is the quantile of 90 %."""
    error = target - output
    return torch.maximum(0.9 * error, -0.1 * error).mean()


@healthy("K35")
def outliers_under_a_huber_loss(seed: int) -> Program:
    program = Program(
        mlp(10, 64, 64, 1), data.friedman(seed), nn.HuberLoss(), squared_error, 3e-3, steps=400
    )
    factor = torch.where(torch.rand(len(program.data.y), 1) < 0.03, 20.0, 1.0)
    program.with_targets(lambda y: factor * y, test=False)
    return program


@healthy("K39")
def focal_loss(seed: int) -> Program:
    samples = parts.classification(seed, 20, 8, n_samples=3000, weights=[0.9])
    return Program(mlp(20, 64, 2), samples, focal, parts.balanced_error, 3e-3, Adam, 400, 128)


def focal(output: Tensor, target: Tensor) -> Tensor:
    """Focal loss with exponent 2 and weights of the classes, after Lin et al., 2017."""
    own = output.log_softmax(1).gather(1, target[:, None])[:, 0]
    weight = torch.where(target == 1, 0.75, 0.25)
    return -(weight * (1 - own.exp()) ** 2 * own).mean()


@healthy("K51")
def rates_by_layer(seed: int) -> Program:
    program = digits_program(seed, 3e-3, layerwise)
    program.model = mlp(64, 64, 64, 64, 10)
    return program


def layerwise(parameters: Any, lr: float) -> Optimizer:
    """AdamW whose rate falls by a factor of three from each layer to the one before."""
    pairs = [parameters[i : i + 2] for i in range(0, len(parameters), 2)]
    depth = len(pairs) - 1
    return AdamW([{"params": p, "lr": lr / 3 ** (depth - i)} for i, p in enumerate(pairs)], lr)


class SignDescent(SGD):
    """SGD on the signs of the gradients."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.sign_()
        return super().step(closure)


@healthy("K53")
def sign_descent(seed: int) -> Program:
    program = digits_program(seed, 1e-3, partial(SignDescent, momentum=0.9), 300)
    program.schedule = lambda optimizer, steps: lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    return program
