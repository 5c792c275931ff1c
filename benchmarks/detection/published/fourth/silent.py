"""Runs that end without an error and learned nothing, or not what was meant."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer

from detection import data, models
from detection.bases import TokenLoss, error_rate
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published
from detection.published.third.losses import Variational, images, kl_of

SILENT = Class.SILENT


class Averaged(nn.Module):
    """A network and the moving average of its weights, which is used in evaluation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.average = network, deepcopy(network).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.network if self.training else self.average)(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages by a tenth towards the weights."""
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight, 0.1)


def update_average(_: int, program: Program, __: Optimizer) -> None:
    """Update the averages of a program's model."""
    program.model.update()  # type: ignore[operator]


@published(SILENT, "R90", "MultimediaTechLab/YOLO#97", "parameter_not_updated overfitting")
def moving_average_never_updated(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed, image=True), Averaged(cnn())
    program = Program(model, samples, CrossEntropy(), error_rate, 2e-3, Adam, 200, 64)
    program.parameters = lambda model: [*model.network.parameters()]  # type: ignore[union-attr]
    program.validate_every = 20
    if repaired:
        program.events.append(update_average)
    return program


@published(
    SILENT,
    "R91",
    "stefanopini/simple-HRNet#79, open-mmlab/mmpretrain#18",
    "state_not_restored loss_plateau parameter_not_updated",
)
def frozen_layers_whose_names_did_not_match(seed: int, repaired: bool) -> Program:
    samples = parts.figures(seed)
    trained, model = cnn(3, size=16), cnn(3, size=16)
    optimizer = Adam(trained.parameters(), 2e-3)
    for _ in range(120):
        chosen = torch.randint(len(samples.x), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(trained(samples.x[chosen]), samples.y[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    prefix = "" if repaired else "module."
    state = {prefix + name: value for name, value in trained[:-1].state_dict().items()}
    model.load_state_dict(state, strict=False)
    for layer in model[:-1]:  # type: ignore[attr-defined]
        layer.requires_grad_(False)
    program = Program(model, samples, CrossEntropy(), error_rate, 3e-3, Adam, 150)
    program.parameters = lambda model: [*model[-1].parameters()]  # type: ignore[index]
    return program


@published(
    SILENT,
    "R92",
    "huggingface/transformers#48745, pytorch/tutorials#2478",
    "trivial_target overfitting",
)
def next_words_are_visible(seed: int, repaired: bool) -> Program:
    model = Writer(causal=repaired)
    return Program(model, data.chain(seed), TokenLoss(), last_token, 3e-3, AdamW, 250, 16)


class Writer(nn.Module):
    """A small language model; in evaluation it continues the first half of each text."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(16, 32), nn.Embedding(20, 32)
        block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head, self.causal = nn.Linear(32, 16), causal

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            x = x[:, :10]
        length = x.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).triu(1) if self.causal else None
        return self.head(self.blocks(self.embed(x) + self.position.weight[:length], mask))  # type: ignore[no-any-return]


def last_token(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the word after the first half."""
    return functional.cross_entropy(output[:, -1], target[:, 9])


@published(
    SILENT,
    "R93",
    "common question, ignore_index=0 and a class with the number 0",
    "no_supervision class_collapse",
)
def class_zero_ignored(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    loss = CrossEntropy(ignore_index=-100 if repaired else 0)
    metric = parts.error_of_class(0)
    return Program(cnn(), samples, loss, metric, 2e-3, Adam, 250, 64)


@published(
    SILENT,
    "R94",
    "common question, weight of the divergence is step // steps",
    "loss_term_inactive overfitting",
)
def weight_of_the_divergence_stays_zero(seed: int, repaired: bool) -> Program:
    at = [0]

    def loss(output: Any, target: Tensor) -> Tensor:
        image, mean, log_variance = output
        share = min(1.0, at[0] / 150) if repaired else at[0] // 400
        squares = 10 * ((image - target) ** 2).sum(1).mean()
        return squares + share * kl_of(mean, log_variance).mean()  # type: ignore[no-any-return]

    def bound(output: Any, target: Tensor) -> Tensor:
        image, mean, log_variance = output
        return 10 * ((image - target) ** 2).sum(1).mean() + kl_of(mean, log_variance).mean()  # type: ignore[no-any-return]

    def count(step: int, _: Program, __: Optimizer) -> None:
        at[0] = step + 1

    program = Program(Variational(), images(seed), loss, bound, 2e-3, Adam, 400, 64)
    program.events.append(count)
    return program


class ClippedReward(nn.Module):
    """Policy gradient of a reward from 2 to 10 that is clipped to at most `largest`."""

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=output)
        action = policy.sample()  # type: ignore[no-untyped-call]
        reward = (10 - 2.0 * (action - target).abs()).clamp(-self.largest, self.largest)
        return -((reward - reward.mean()) * policy.log_prob(action)).mean()  # type: ignore[no-untyped-call,no-any-return]


@published(SILENT, "R95", "common question, rewards clipped to -1 and 1", "no_signal")
def all_rewards_clipped_to_one(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 6)
    samples = data.split(x, (x @ torch.randn(6, 5)).argmax(1), seed)
    loss = ClippedReward(10.0 if repaired else 1.0)
    program = Program(mlp(6, 64, 5), samples, loss, error_rate, 5e-3, Adam, 300, 64)
    program.loss_falls = False
    return program


@published(
    SILENT,
    "R96",
    "common question, requires_grad_(False) left from an earlier stage",
    "parameter_not_updated no_gradient",
)
def layers_stay_frozen_after_the_first_stage(seed: int, repaired: bool) -> Program:
    model = models.ResNet(4)
    model.requires_grad_(repaired)
    model.head.requires_grad_(True)
    return Program(model, data.shapes(seed), CrossEntropy(), error_rate, 0.02, sgd(0.9), 150)
