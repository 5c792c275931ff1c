"""Optimizer and fit: learning rate, decay, clipping, batch size, capacity, number of steps."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler

from detection.bases import momentum
from detection.case import Class, Places
from detection.faults.register import fault
from detection.program import Program, hidden_layers, put, swap

OPTIMIZER, FIT = Class.OPTIMIZER, Class.FIT
HIGH = "learning_rate_too_high loss_divergence exploding_gradient"
LOW = "learning_rate_too_low undertrained no_learning"


@fault(
    OPTIMIZER,
    HIGH + " dead_relu",
    "cnn-digits mlp-quadratic",
    factor=300,
    name="rate_times_300",
)
@fault(
    OPTIMIZER,
    HIGH,
    "lstm-cue transformer-chain",
    factor=100,
    name="rate_times_100",
)
@fault(
    OPTIMIZER,
    LOW,
    "mlp-friedman resnet-shapes",
    factor=1e-3,
    name="rate_over_1000",
)
@fault(OPTIMIZER, LOW, "cnn-digits tanh-rings", factor=1e-4, name="rate_over_10000")
def rate(p: Program, factor: float) -> None:
    p.lr *= factor


@fault(OPTIMIZER, LOW, "lstm-cue transformer-chain")
def sgd_at_the_rate_of_adam(p: Program) -> None:
    p.optimizer = SGD


@fault(
    OPTIMIZER,
    HIGH + " loss_spike dead_relu",
    "mlp-friedman transformer-chain",
    onset=100,
)
def rate_jumps_at_step_100(p: Program) -> None:
    p.schedule = lambda optimizer, _: LambdaLR(optimizer, lambda t: 300.0 if t >= 100 else 1.0)


@fault(OPTIMIZER, "over_regularised", "mlp-digits transformer-chain")
def weight_decay_of_100(p: Program) -> None:
    p.optimizer = lambda parameters, lr: AdamW(parameters, lr, weight_decay=100.0)


@fault(OPTIMIZER, "over_regularised", "cnn-digits tanh-rings", name="l2_penalty_of_one")
def l2_penalty(p: Program) -> None:
    p.optimizer = lambda parameters, lr: SGD(parameters, lr, momentum=0.9, weight_decay=1.0)


@fault(OPTIMIZER, "clipping_always_active learning_rate_too_low", "cnn-digits tanh-rings")
def clip_norm_far_too_small(p: Program) -> None:
    p.clip_norm = 1e-3


@fault(OPTIMIZER, LOW, "mlp-digits resmlp-clusters", name="adam_epsilon_of_one")
def adam_epsilon(p: Program) -> None:
    p.optimizer = lambda parameters, lr: Adam(parameters, lr, eps=1.0)


@fault(OPTIMIZER, HIGH + " loss_oscillation", "cnn-digits tanh-rings")
def momentum_of_0999(p: Program) -> None:
    p.optimizer = lambda parameters, lr: SGD(parameters, lr, momentum=0.999)


def small_batches(p: Program) -> None:
    """Plain SGD with momentum, as the twin."""
    p.optimizer, p.lr, p.steps = momentum, 0.02, 300


@fault(
    OPTIMIZER,
    "gradient_noise_dominates loss_oscillation learning_rate_too_high",
    "mlp-digits mlp-friedman",
    given=small_batches,
)
def batch_of_one(p: Program) -> None:
    p.batch_size = 1


@fault(OPTIMIZER, "schedule_ended_early learning_rate_too_low", "lstm-cue resmlp-clusters")
def decay_for_epochs_applied_to_steps(p: Program) -> None:
    def schedule(optimizer: Optimizer, _: int) -> LRScheduler:
        return ExponentialLR(optimizer, 0.8)

    p.schedule = schedule


def with_momentum(p: Program) -> None:
    """Use SGD with momentum, as the twin does."""
    p.optimizer, p.lr = momentum, 0.02


@fault(
    OPTIMIZER, HIGH + " loss_spike", "transformer-chain tanh-rings", given=with_momentum, onset=80
)
def one_huge_batch(p: Program) -> None:
    inner = p.loss

    def event(step: int, program: Program, _: Optimizer) -> None:
        if step in (79, 80):
            program.loss = (lambda o, y: 1e4 * inner(o, y)) if step == 79 else inner

    p.events.append(event)


# Fit.


def validated(p: Program) -> None:
    """Log a validation loss, and train for longer."""
    p.validate_every = 10
    p.steps = 300


@fault(FIT, "overfitting", "mlp-friedman mlp-quadratic", given=validated)
def few_samples(p: Program) -> None:
    p.data = replace(p.data, x=p.data.x[:40], y=p.data.y[:40])


@fault(FIT, LOW, "lstm-cue resnet-shapes")
def far_too_few_steps(p: Program) -> None:
    p.steps = 20


@fault(FIT, "loss_plateau missing_nonlinearity", "mlp-friedman tanh-rings")
def hidden_width_of_one(p: Program) -> None:
    name, layer = hidden_layers(p.model)[0]
    following, after = hidden_layers(p.model)[1]
    put(p.model, name, nn.Linear(layer.weight.shape[1], 1))
    put(p.model, following, nn.Linear(1, after.weight.shape[0]))


@fault(FIT, "over_regularised loss_plateau", "autoencoder-digits mlp-quadratic")
def dropout_of_095(p: Program) -> Places:
    swap(p.model, nn.ReLU, lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.95)))
    return ("*act*", "")


@fault(FIT, "overfitting label_noise", "mlp-digits resmlp-clusters", given=validated)
def memorises_random_labels(p: Program) -> None:
    wrong = torch.rand(len(p.data.y)) < 0.5
    shuffled = p.data.y[torch.randperm(len(p.data.y))]
    p.data = replace(p.data, x=p.data.x, y=torch.where(wrong, shuffled, p.data.y))
    p.data = replace(p.data, x=p.data.x[:200], y=p.data.y[:200])
