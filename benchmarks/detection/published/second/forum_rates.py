"""Rates, schedules and optimizer options after the PyTorch forum and articles on training."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer, lr_scheduler

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published

OPTIMIZER = Class.OPTIMIZER
ENDED = "schedule_ended_early learning_rate_too_low undertrained"
TOO_HIGH = "learning_rate_too_high loss_oscillation loss_divergence"


def digits_program(seed: int, lr: float, optimizer: Any, steps: int = 300) -> Program:
    """Return a convolutional network on digits with batches of 64."""
    samples = parts.digits(seed, image=True)
    return Program(cnn(), samples, CrossEntropy(), error_rate, lr, optimizer, steps, 64)


@published(OPTIMIZER, "P10", "PyTorch forum, scheduler.step() in the batch loop", ENDED)
def exponential_decay_per_batch(seed: int, repaired: bool) -> Program:
    program = digits_program(seed, 0.05, sgd(0.9))
    per_step = 0.9 ** (1 / 21) if repaired else 0.9  # 21 batches are an epoch.
    program.schedule = lambda optimizer, _: lr_scheduler.ExponentialLR(optimizer, per_step)
    return program


@published(OPTIMIZER, "P11", "Hugging Face forum, num_training_steps", ENDED)
def linear_decay_over_one_epoch(seed: int, repaired: bool) -> Program:
    program = digits_program(seed, 1e-3, Adam)
    end = program.steps if repaired else 21
    program.schedule = lambda optimizer, _: lr_scheduler.LambdaLR(
        optimizer, lambda step: max(0.0, 1 - step / end)
    )
    return program


@published(
    OPTIMIZER, "P12", "PyTorch forum, warm-up in steps", "learning_rate_too_low undertrained"
)
def warm_up_of_100000_steps(seed: int, repaired: bool) -> Program:
    program = digits_program(seed, 0.1, sgd(0.9))
    length = 50 if repaired else 100_000
    program.schedule = lambda optimizer, _: lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / length)
    )
    return program


@published(
    OPTIMIZER,
    "P13",
    "PyTorch forum, clip_grad_norm_",
    "clipping_always_active learning_rate_too_low undertrained",
)
def gradients_clipped_to_a_norm_of_0_001(seed: int, repaired: bool) -> Program:
    program = digits_program(seed, 0.1, sgd())
    program.clip_norm = 1.0 if repaired else 1e-3
    return program


@published(OPTIMIZER, "P14", "Stack Overflow, order of Adam's betas", TOO_HIGH)
def adam_betas_exchanged(seed: int, repaired: bool) -> Program:
    betas = (0.9, 0.999) if repaired else (0.999, 0.9)
    optimizer = partial(Adam, betas=betas)
    return Program(
        mlp(6, 64, 64, 1), data.quadratic(seed), nn.MSELoss(), squared_error, 3e-3, optimizer, 400
    )


@published(OPTIMIZER, "P15", "PyTorch forum, momentum 0.99", TOO_HIGH)
def momentum_of_0_99_at_a_high_rate(seed: int, repaired: bool) -> Program:
    return digits_program(seed, 0.1, sgd(0.0 if repaired else 0.99))


@published(
    OPTIMIZER,
    "P16",
    "PyTorch forum, gradient accumulation",
    "learning_rate_too_low undertrained",
)
def loss_divided_twice_by_the_micro_batches(seed: int, repaired: bool) -> Program:
    program = digits_program(seed, 0.05, sgd(0.9), 120)
    program.batch_size, program.accumulate = 8, 16
    if not repaired:
        program.loss = lambda output, target: functional.cross_entropy(output, target) / 16
    return program


@published(
    OPTIMIZER,
    "P17",
    "PyTorch forum, sum of the squared errors of an image",
    "loss_task_mismatch learning_rate_too_high exploding_gradient non_finite_value",
)
def squared_errors_summed_over_images(seed: int, repaired: bool) -> Program:
    x = parts.digits(seed).x
    samples, model = data.split(x, x, seed), mlp(64, 32, 12, 32, 64)
    loss = nn.MSELoss(reduction="mean" if repaired else "sum")
    lr = 0.5 if repaired else 0.05
    return Program(model, samples, loss, squared_error, lr, sgd(0.9), 300, 64)


@published(
    OPTIMIZER,
    "P18",
    "PyTorch forum, dropout after every layer",
    "over_regularised gradient_noise_dominates loss_plateau",
)
def dropout_of_95_percent(seed: int, repaired: bool) -> Program:
    model = mlp(64, 64, 64, 10, dropout=0.2 if repaired else 0.95)
    samples = parts.digits(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=300, batch_size=64)


@published(Class.BIAS, "P19", "PyTorch forum, rates per parameter", f"bias_drift {TOO_HIGH}")
def rate_of_the_biases_1000_times_higher(seed: int, repaired: bool) -> Program:
    model, samples = mlp(10, 64, 64, 1), data.friedman(seed)
    optimizer = partial(biases_faster, factor=1 if repaired else 1000)
    return Program(model, samples, nn.MSELoss(), squared_error, 1e-2, optimizer, 300)


def biases_faster(parameters: Any, lr: float, *, factor: float) -> Optimizer:
    """SGD with the rate of the biases multiplied by `factor`."""
    weights = [p for p in parameters if p.dim() > 1]
    biases = [p for p in parameters if p.dim() < 2]
    return SGD([{"params": weights}, {"params": biases, "lr": factor * lr}], lr)


@published(
    Class.FIT,
    "P20",
    "Stack Overflow, early stopping with patience",
    "undertrained",
)
def stopped_at_the_first_rise_of_the_validation_loss(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed)
    program = Program(mlp(64, 64, 10), samples, CrossEntropy(), error_rate, 0.1, sgd(), 600)
    program.validate_every = 5
    if not repaired:
        program.steps = 15
    return program


@published(
    OPTIMIZER,
    "P21",
    "PyTorch forum, BatchNorm with small batches",
    "gradient_noise_dominates loss_oscillation",
)
def batch_norm_with_batches_of_two(seed: int, repaired: bool) -> Program:
    model = nn.Sequential(
        nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64),
        nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5),
    )  # fmt: skip
    size, samples = 64 if repaired else 2, data.clusters(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 3e-3, Adam, 300, size)


@published(
    OPTIMIZER,
    "P22",
    "Stack Overflow, momentum of BatchNorm in Keras and PyTorch",
    "wrong_train_eval_mode overfitting",
)
def running_statistics_that_never_catch_up(seed: int, repaired: bool) -> Program:
    program = digits_program(seed, 0.05, sgd(0.9), 200)
    program.model = cnn(norm=True)
    program.with_inputs(lambda x: 16 * x)
    program.validate_every = 20
    for module in program.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1 if repaired else 1e-4
    return program
