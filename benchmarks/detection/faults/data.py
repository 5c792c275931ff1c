"""Data: inputs and targets that a network cannot use as they are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import SGD

from detection.case import Class
from detection.faults.register import fault
from detection.program import Program

DATA = Class.DATA
INPUT = "unnormalised_input"
RANDOM_LABELS = "label_noise no_learning loss_plateau"


@fault(
    DATA,
    INPUT,
    "mlp-digits tanh-rings",
    factor=1000.0,
    shift=0.0,
    name="inputs_times_1000",
)
@fault(
    DATA,
    INPUT,
    "mlp-friedman gru-waves",
    factor=1.0,
    shift=100.0,
    name="inputs_plus_100",
)
@fault(
    DATA,
    INPUT,
    "mlp-digits resmlp-clusters",
    factor=1e-4,
    shift=0.0,
    name="inputs_scaled_twice",
)
def inputs(p: Program, factor: float, shift: float) -> None:
    p.with_inputs(lambda x: x * factor + shift)


@fault(DATA, INPUT, "mlp-friedman mlp-quadratic")
def one_feature_in_other_units(p: Program) -> None:
    def scale(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 0] = 1e4 * x[:, 0] + 3e4
        return x

    p.with_inputs(scale)


CONSTANT = "constant_or_duplicate_input no_learning"


@fault(DATA, CONSTANT, "lstm-cue resnet-shapes")
def inputs_all_zero(p: Program) -> None:
    p.with_inputs(torch.zeros_like)


@fault(DATA, CONSTANT + " overfitting", "mlp-digits resmlp-clusters")
def same_batch_at_every_step(p: Program) -> None:
    p.sample = lambda p, _, __: torch.arange(p.batch_size)


@fault(
    DATA,
    RANDOM_LABELS,
    "lstm-cue transformer-chain",
)
def shuffled_targets(p: Program) -> None:
    order = torch.randperm(len(p.data.y))
    p.with_targets(lambda y: y[order], test=False)


@fault(DATA, RANDOM_LABELS, "mlp-digits tanh-rings", name="eighty_percent_of_labels_random")
def noisy_labels(p: Program) -> None:
    wrong = torch.rand(len(p.data.y)) < 0.8
    shuffled = p.data.y[torch.randperm(len(p.data.y))]
    p.with_targets(lambda y: torch.where(wrong, shuffled, y), test=False)


@fault(
    DATA,
    "loss_oscillation class_collapse constant_or_duplicate_input",
    "mlp-digits tanh-rings",
)
def sorted_by_class(p: Program) -> None:
    order = p.data.y.argsort()
    p.data = replace(p.data, x=p.data.x[order], y=p.data.y[order])
    classes = int(p.data.y.max()) + 1

    def sample(p: Program, step: int, generator: torch.Generator) -> Tensor:
        # Each class for 15 steps in turn, as a sorted file without shuffling gives.
        rows = (p.data.y == step // 15 % classes).nonzero()[:, 0]
        return rows[torch.randint(len(rows), (p.batch_size,), generator=generator)]

    p.sample = sample


@fault(DATA, "target_not_scaled initial_loss_anomaly", "mlp-friedman mlp-quadratic")
def targets_in_thousands(p: Program) -> None:
    p.with_targets(lambda y: 5000 + 1000 * y)


@fault(DATA, "target_outliers loss_spike gradient_noise_dominates", "mlp-friedman mlp-quadratic")
def two_percent_of_targets_times_100(p: Program) -> None:
    wild = (torch.rand(len(p.data.y), 1) < 0.02) * 99 + 1
    p.with_targets(lambda y: y * wild, test=False)


@fault(DATA, "class_imbalance class_collapse", "mlp-digits lstm-cue")
def hundred_of_one_class_to_one(p: Program) -> None:
    keep = (p.data.y == 0) | (torch.arange(len(p.data.y)) % 100 == 0)
    p.data = replace(p.data, x=p.data.x[keep], y=p.data.y[keep])


def plain_sgd(p: Program) -> None:
    """Plain SGD, as the twin."""
    p.optimizer, p.lr = SGD, 0.1


@fault(DATA, "class_collapse", "mlp-digits resmlp-clusters", given=plain_sgd)
def one_class_weighted_times_10000(p: Program) -> None:
    weight = torch.ones(int(p.data.y.max()) + 1)
    weight[0] = 10_000.0
    p.loss = nn.CrossEntropyLoss(weight)


@fault(
    DATA,
    "no_learning loss_plateau label_noise",
    "mlp-digits resnet-shapes",
    name="reshape_mixes_samples",
)
def mixed_samples(p: Program) -> None:
    # (B, F) read as (F, B) and reshaped: every row holds pixels of many samples.
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1).T.reshape(x.shape), y

    p.collate = collate
