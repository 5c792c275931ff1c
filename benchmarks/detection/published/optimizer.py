"""Learning rates, batches, epochs and penalties that do not fit the problem."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, RMSprop

from detection import data, models
from detection.bases import TokenLoss, error_rate, squared_error, token_loss
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, cnn, mlp, sgd, wrong_side
from detection.published.register import published

OPTIMIZER = Class.OPTIMIZER
TOO_LOW = "learning_rate_too_low loss_plateau"


@published(OPTIMIZER, "F002", "Stack Overflow 44164749", "undertrained learning_rate_too_low")
def five_steps_on_the_whole_set(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed), mlp(64, 5000, 600, 10, dropout=0.1)
    optimizer = sgd(0.9, nesterov=True)
    if repaired:
        return Program(model, samples, CrossEntropy(), error_rate, 0.05, optimizer, 60, 64)
    program = Program(model, samples, CrossEntropy(), error_rate, 0.01, optimizer, 5)
    program.batch_size, program.sample = len(samples.x), parts.whole
    return program


@published(
    OPTIMIZER, "F004", "Stack Overflow 50306988", "learning_rate_too_low loss_plateau undertrained"
)
def adam_rate_too_low_for_five_epochs(seed: int, repaired: bool) -> Program:
    low, high = 0.2 + 0.2 * torch.rand(1000, 1), 0.5 + 0.2 * torch.rand(1000, 1)
    samples = data.split(torch.cat([low, high]), torch.arange(2).repeat_interleave(1000), seed)
    model, lr = mlp(1, 2, 2, activation=nn.Sigmoid), 0.1 if repaired else 1e-3
    return Program(model, samples, CrossEntropy(), error_rate, lr, steps=235)


@published(
    OPTIMIZER, "F032", "Stack Overflow 41600519", "gradient_noise_dominates loss_oscillation"
)
def batches_of_one_sample(seed: int, repaired: bool) -> Program:
    x = (torch.rand(2000, 500) < 0.03).float()
    y = (x @ torch.randn(500, 1) + 1.5 * torch.randn(2000, 1) > 0).float()
    samples, metric = data.split(x, y, seed), wrong_side(0.0)
    model, loss, size = mlp(500, 32, 1), BinaryCrossEntropy(), 64 if repaired else 1
    return Program(model, samples, loss, metric, 1e-3, RMSprop, 600, size)


@published(OPTIMIZER, "F036", "Stack Overflow 44998910", "learning_rate_too_low undertrained")
def sgd_rate_too_low_for_a_line(seed: int, repaired: bool) -> Program:
    x = 2 * torch.rand(500, 1)
    samples = data.split(x, 3 * x + 1 + 0.05 * torch.randn(500, 1), seed)
    lr = 0.1 if repaired else 1e-4
    return Program(mlp(1, 8, 1), samples, nn.MSELoss(), squared_error, lr, sgd(), 300)


@published(
    OPTIMIZER,
    "F042",
    "GitHub ShyamPoovaiah/FacialKeypointsDetection",
    "learning_rate_too_high dead_relu loss_divergence",
)
def adam_rate_of_a_tenth_for_key_points(seed: int, repaired: bool) -> Program:
    centre, at = 3 + 10 * torch.rand(1000, 2), torch.arange(16.0)
    rows, columns = (at - centre[:, :1]) ** 2, (at - centre[:, 1:]) ** 2
    x = torch.exp(-(rows[:, :, None] + columns[:, None, :]) / 4)[:, None]
    samples, lr = data.split(x, centre / 16, seed), 1e-3 if repaired else 0.1
    return Program(cnn(2, size=16), samples, nn.MSELoss(), squared_error, lr, steps=200)


def digits_program(seed: int, lr: float, optimizer: Any, steps: int, size: int = 64) -> Program:
    """Return the convolutional network on digits with an optimizer."""
    samples = parts.digits(seed, image=True)
    return Program(cnn(), samples, CrossEntropy(), error_rate, lr, optimizer, steps, size)


@published(OPTIMIZER, "F048", "TheDeepChecker, low_lr", f"{TOO_LOW} undertrained")
def sgd_rate_100_times_too_low(seed: int, repaired: bool) -> Program:
    program = digits_program(seed, 0.1 if repaired else 1e-3, sgd(), 500)
    program.model = cnn(widths=(6, 16), dense=84)
    return program


@published(
    OPTIMIZER, "F052", "TheDeepChecker, over_regularization", "over_regularised loss_plateau"
)
def squared_penalty_of_a_tenth(seed: int, repaired: bool) -> Program:
    model, strength = mlp(10, 64, 64, 1), 0.0 if repaired else 0.1

    def loss(output: Tensor, target: Tensor) -> Tensor:
        penalty = sum((p**2).sum() for p in model.parameters())
        return nn.functional.mse_loss(output, target) + strength * penalty

    return Program(model, data.friedman(seed), loss, squared_error, 1e-3, steps=400)


@published(
    OPTIMIZER,
    "F062",
    "TheDeepChecker, low_adam_epsilon",
    "adam_epsilon loss_spike learning_rate_too_high",
)
def adam_epsilon_of_1e_16_with_tiny_gradients(seed: int, repaired: bool) -> Program:
    eps = 1e-8 if repaired else 1e-16
    optimizer = partial(torch.optim.Adam, eps=eps)
    samples, model = parts.diabetes(seed), mlp(10, 64, 1)
    program = Program(model, samples, nn.MSELoss(), squared_error, 1e-2, optimizer, 400)
    if not repaired:
        program.with_inputs(lambda x: 1e-4 * x * (torch.rand_like(x) < 0.1))
    return program


@published(
    OPTIMIZER,
    "F070",
    "Stack Overflow 42264716 (IPS-17)",
    "learning_rate_too_high loss_divergence loss_task_mismatch",
)
def summed_squares_of_a_parabola(_: int, repaired: bool) -> Program:
    x = torch.arange(4.0)[:, None]
    samples = data.Data(x, x**2, x, x**2)
    loss = nn.MSELoss(reduction="mean" if repaired else "sum")
    program = Program(Parabola(), samples, loss, squared_error, 0.01, sgd(), 300, 4)
    program.sample = parts.whole
    return program


class Parabola(nn.Module):
    """a x² + b x + c with a, b and c at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(())) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x * x + self.b * x + self.c


@published(OPTIMIZER, "F082", "AutoTrainer, dying ReLU", "dead_relu learning_rate_too_high")
def sgd_rate_of_five(seed: int, repaired: bool) -> Program:
    model, lr = mlp(64, 64, 64, 10), 0.1 if repaired else 5.0
    return Program(model, parts.digits(seed), CrossEntropy(), error_rate, lr, sgd(), 100)


@published(OPTIMIZER, "F084", "AutoTrainer, slow convergence", TOO_LOW)
def sgd_rate_of_1e_5(seed: int, repaired: bool) -> Program:
    model, lr = mlp(2, 16, 3), 0.1 if repaired else 1e-5
    return Program(model, parts.blobs(seed), CrossEntropy(), error_rate, lr, sgd(), 250)


@published(OPTIMIZER, "F094", "DeepCrime, HLR × 1000", "learning_rate_too_high dead_relu")
def adam_rate_of_one(seed: int, repaired: bool) -> Program:
    return digits_program(seed, 1e-3 if repaired else 1.0, torch.optim.Adam, 120)


@published(OPTIMIZER, "F096", "DeepCrime, HNE one epoch", "undertrained")
def one_epoch(seed: int, repaired: bool) -> Program:
    if repaired:
        return digits_program(seed, 0.1, sgd(), 400, 32)
    return digits_program(seed, 0.01, sgd(), 42, 32)


@published(OPTIMIZER, "F100", "DeepCrime, RAW L2 100", "over_regularised loss_plateau")
def weight_decay_of_50(seed: int, repaired: bool) -> Program:
    optimizer = partial(AdamW, weight_decay=0.01 if repaired else 50.0)
    samples = parts.digits(seed)
    return Program(mlp(64, 64, 10), samples, CrossEntropy(), error_rate, 1e-2, optimizer, 300, 64)


@published(OPTIMIZER, "F108", "DeepCrime, OCH change_optimizer", TOO_LOW)
def sgd_at_the_rate_of_adam(seed: int, repaired: bool) -> Program:
    return digits_program(seed, 1e-3, torch.optim.Adam if repaired else sgd(), 250)


@published(OPTIMIZER, "F118", "PyTorch forum", "learning_rate_too_high loss_spike loss_plateau")
def post_norm_transformer_without_warm_up(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed)
    model, lr = parts.Encoder(10, 8, norm_first=False), 3e-4 if repaired else 1e-2
    program = Program(model, samples, CrossEntropy(), error_rate, lr, steps=200, batch_size=64)
    program.with_inputs(lambda x: x.reshape(-1, 8, 8))
    return program


@published(OPTIMIZER, "F140", "this project", "loss_spike loss_divergence", onset=300)
def one_bad_update_at_step_300(seed: int, repaired: bool) -> Program:
    samples = arithmetic_sequences(seed)
    model = models.Transformer(20, 16)
    program = Program(model, samples, TokenLoss(), token_loss, 1e-3, AdamW, 350)

    def set_rate(step: int, _: Program, optimizer: Optimizer) -> None:
        optimizer.param_groups[0]["lr"] = 5e-2 if step == 299 else 1e-3

    if not repaired:
        program.events.append(set_rate)
        program.collate = lambda step, x, y: (
            x,
            torch.randint(20, y.shape) if step == 300 else y,
        )
    return program


def arithmetic_sequences(seed: int) -> data.Data:
    """Return 400 sequences with x' = 3 x + k modulo 20, k from 1 to 3; the target is the next."""
    text = torch.zeros(400, 17, dtype=torch.long)
    text[:, 0], k = torch.randint(20, (400,)), torch.randint(1, 4, (400,))
    for i in range(16):
        text[:, i + 1] = (3 * text[:, i] + k) % 20
    return data.split(text[:, :-1], text[:, 1:], seed)


@published(
    OPTIMIZER,
    "F142",
    "this project",
    "attention_logit_growth learning_rate_too_high loss_divergence",
)
def attention_at_a_rate_of_0_03(seed: int, repaired: bool) -> Program:
    x = torch.randint(20, (2000, 16))
    y = nn.functional.one_hot(x // 5, 4).sum(1).argmax(1)  # The most frequent kind of token.
    model = parts.Encoder(4, 16, tokens=20, norm_first=True)
    lr, samples = 1e-3 if repaired else 3e-2, data.split(x, y, seed)
    return Program(model, samples, CrossEntropy(), error_rate, lr, AdamW, 200)


@published(OPTIMIZER, "F150", "this project", "learning_rate_too_high loss_spike")
def resumed_at_100_times_the_rate(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed), mlp(64, 64, 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(600):
        chosen = torch.randint(len(samples.x), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(samples.x[chosen]), samples.y[chosen]).backward()
        optimizer.step()
    lr = 0.1 if repaired else 10.0
    return Program(model, samples, CrossEntropy(), error_rate, lr, sgd(), 100, 64)
