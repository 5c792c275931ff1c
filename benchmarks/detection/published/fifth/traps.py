"""Healthy programs that look like the faulty ones of this list."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer, lr_scheduler

from detection import data, models
from detection.bases import TokenLoss, error_rate, squared_error, token_loss
from detection.program import Data, Program
from detection.published import parts
from detection.published.fifth.losses import gap_of_moments
from detection.published.fifth.silent import (
    PLACES,
    action_value_error,
    corridor,
    value_of_the_start,
)
from detection.published.fourth.samples import Bag, topics
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import healthy


class Curious(nn.Module):
    """Policy gradient with a bonus for the entropy of the policy."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=output)
        action = policy.sample()  # type: ignore[no-untyped-call]
        reward = (action == target).float()
        gain = ((reward - reward.mean()) * policy.log_prob(action)).mean()  # type: ignore[no-untyped-call]
        return -gain - 0.02 * policy.entropy().mean()  # type: ignore[no-untyped-call,no-any-return]


@healthy("KT1")
def policy_with_an_entropy_bonus(seed: int) -> Program:
    x = torch.randn(2000, 6)
    samples = data.split(x, (x @ torch.randn(6, 5)).argmax(1), seed)
    program = Program(mlp(6, 64, 5), samples, Curious(), error_rate, 3e-3, Adam, 400, 64)
    program.loss_falls = False
    return program


@healthy("KT2")
def values_with_a_target_copied_every_40_steps(seed: int) -> Program:
    online, target = mlp(PLACES, 32, 2), mlp(PLACES, 32, 2)
    target.load_state_dict(online.state_dict())
    model = nn.ModuleDict({"online": online, "target": target.requires_grad_(False)})
    program = Program(model, corridor(seed), action_value_error, value_of_the_start, 5e-3)
    program.parameters = lambda model: [*model["online"].parameters()]  # type: ignore[index]
    program.forward = lambda model, x: torch.cat(
        [model["online"](x[:, :PLACES]), model["target"](x[:, PLACES:])],  # type: ignore[index]
        1,
    )

    def copy(step: int, _: Program, __: Optimizer) -> None:
        if step % 40 == 39:
            target.load_state_dict(online.state_dict())

    program.events.append(copy)
    program.steps, program.batch_size, program.loss_falls = 600, 64, False
    return program


def hinged(program: Program, optimizers: Any, monitor: Any, _: int) -> None:
    """Train the critic by the hinge loss and then the generator."""
    of_generator, of_critic = optimizers
    generator, critic = program.model["generator"], program.model["critic"]  # type: ignore[index]
    real = program.data.y[torch.randint(len(program.data.y), (64,))]
    made = generator(torch.randn(64, 8))
    of_critic.zero_grad()
    wrong = (1 + critic(made.detach())).relu().mean()
    ((1 - critic(real)).relu().mean() + wrong).backward()
    of_critic.step()
    of_generator.zero_grad()
    monitor.loss(-critic(made).mean()).backward()
    of_generator.step()


@healthy("KT3")
def generator_against_a_hinge_loss(_: int) -> Program:
    model = nn.ModuleDict({"generator": mlp(8, 64, 2), "critic": mlp(2, 64, 64, 1)})
    x = torch.randn(512, 8)
    y = torch.tensor([1.0, -0.5]) + 0.5 * torch.randn(512, 2)
    program = Program(model, Data(x, y, x, y), nn.Identity(), gap_of_moments, 5e-4)
    program.optimizer = lambda _, lr: [
        Adam(part.parameters(), lr, (0.0, 0.9)) for part in model.values()
    ]
    program.forward, program.steps = lambda model, x: model["generator"](x), 500  # type: ignore[index]
    program.step, program.loss_falls = hinged, False
    return program


@healthy("KT4")
def columns_of_three_hundred_categories(seed: int) -> Program:
    kinds = torch.randint(100, (3000, 3))
    x = torch.eye(100)[kinds].flatten(1)
    y = torch.randn(3, 100)[torch.arange(3), kinds].sum(1) + 0.3 * torch.randn(3000)
    samples = data.split(x, data.standard(y)[:, None], seed)
    return Program(mlp(300, 64, 1), samples, nn.MSELoss(), squared_error, 3e-3, Adam, 300, 64)


@healthy("KT5")
def counts_of_thousands_with_their_mean_in_the_bias(seed: int) -> Program:
    samples, model = data.friedman(seed), mlp(10, 64, 1)
    model[-1].bias.data.fill_(8.0)  # type: ignore[operator]

    def deviance(output: Tensor, target: Tensor) -> Tensor:
        return squared_error(output, target.log())

    loss = nn.PoissonNLLLoss()
    program = Program(model, samples, loss, deviance, 1e-3, Adam, 500, 64)
    program.with_targets(lambda y: torch.poisson((8 + 0.3 * y).exp()))
    return program


@healthy("KT6")
def frozen_word_vectors_and_a_new_head(seed: int) -> Program:
    model, samples = Bag(200, 3), topics(seed)
    optimizer = Adam(model.parameters(), 5e-3)
    for _ in range(150):
        chosen = torch.randint(len(samples.x), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(model(samples.x[chosen]), samples.y[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.body = mlp(24, 32, 3)
    model.words.requires_grad_(False)
    program = Program(model, samples, CrossEntropy(), error_rate, 2e-3, AdamW, 200)
    program.parameters = lambda model: [p for p in model.parameters() if p.requires_grad]
    return program


@healthy("KT7")
def four_fifths_of_the_words_dropped(seed: int) -> Program:
    y = torch.randint(4, (2000,))
    share = torch.softmax(1.5 * torch.randn(4, 400), 1)
    x = torch.zeros(2000, 400)
    x = x.scatter_add_(1, torch.multinomial(share[y], 80, True), torch.ones(2000, 80))
    model = nn.Sequential(nn.Dropout(0.8), mlp(400, 128, 4))
    program = Program(model, data.split(x, y, seed), CrossEntropy(), error_rate, 1e-3, Adam, 300)
    program.validate_every = 20
    return program


@healthy("KT8")
def language_model_at_a_triangular_rate(seed: int) -> Program:
    model = models.Transformer(16, 20)
    program = Program(model, data.chain(seed), TokenLoss(), token_loss, 3e-4, AdamW, 240, 16)
    program.schedule = lambda optimizer, _: lr_scheduler.CyclicLR(
        optimizer, 3e-4, 5e-3, step_size_up=30, cycle_momentum=False
    )
    return program


def of_the_same_class(output: Tensor, target: Tensor) -> Tensor:
    """Contrastive loss after Khosla et al.: all samples of the class are right, at 0.1."""
    unit = functional.normalize(output, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool)
    log = (unit @ unit.T / 0.1).masked_fill(itself, -1e9).log_softmax(1)
    same = (target[:, None] == target).logical_and(~itself).float()
    return -((same * log).sum(1) / same.sum(1).clamp_min(1)).mean()


def wrong_neighbour(output: Tensor, target: Tensor) -> Tensor:
    """Share of samples whose most similar other sample has another class."""
    unit = functional.normalize(output, dim=1)
    return (target[(unit @ unit.T).fill_diagonal_(-2).argmax(1)] != target).float().mean()


@healthy("KT9")
def contrast_that_stays_above_the_logarithm_of_the_classes(seed: int) -> Program:
    samples, model = data.digits(seed), mlp(64, 64, 32)
    return Program(model, samples, of_the_same_class, wrong_neighbour, 1e-3, Adam, 250, 128)


@healthy("KT10")
def restarts_that_get_longer(seed: int) -> Program:
    samples = data.shapes(seed)
    program = Program(models.ResNet(4), samples, CrossEntropy(), error_rate, 0.02, sgd(0.9), 210)
    program.schedule = lambda optimizer, _: lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, 30, T_mult=2
    )
    return program


@healthy("KT11")
def one_image_per_batch(seed: int) -> Program:
    samples = data.shapes(seed)
    return Program(models.ResNet(4), samples, CrossEntropy(), error_rate, 3e-4, Adam, 600, 1)


class Strokes(nn.Module):
    """A GRU that returns logits, means and log deviations of two normals for the next value."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])  # type: ignore[no-any-return]


def density(output: Tensor, target: Tensor) -> Tensor:
    """Negative log likelihood of two normals, without the constant."""
    logit, mean, log_deviation = output.chunk(3, -1)
    away = (target - mean) * (-log_deviation).exp()
    return -(logit.log_softmax(-1) - log_deviation - away**2 / 2).logsumexp(-1).mean()


@healthy("KT12")
def density_of_the_next_value(seed: int) -> Program:
    return Program(Strokes(), data.waves(seed), density, density, 5e-3, Adam, 200)


class TwoHeads(nn.Module):
    """A trunk with a class and a reconstruction of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.kind, self.image = nn.Linear(64, 10), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(x)
        return torch.cat([self.kind(h), self.image(h), x], 1)


@healthy("KT13")
def reconstruction_with_a_weight_of_a_thousandth(seed: int) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        kind, image, x = output.split((10, 64, 64), 1)  # type: ignore[no-untyped-call]
        return functional.cross_entropy(kind, target) + 1e-3 * functional.mse_loss(image, x)

    def error(output: Tensor, target: Tensor) -> Tensor:
        return error_rate(output[:, :10], target)

    return Program(TwoHeads(), data.digits(seed), loss, error, 2e-3, Adam, 250, 64)


def late(output: Tensor, target: Tensor) -> Tensor:
    """Quantile loss for the level 0.95, which is high above most targets."""
    missed = target - output
    return torch.maximum(0.95 * missed, -0.05 * missed).mean()


@healthy("KT14")
def forecast_that_is_exceeded_once_in_twenty(seed: int) -> Program:
    x = torch.randn(3000, 4)
    y = x[:, :1] + (0.3 + x[:, 1:2].abs()) * torch.randn(3000, 1)
    samples = data.split(x, y, seed)
    return Program(mlp(4, 48, 1), samples, late, late, 3e-3, Adam, 400, 64)


@healthy("KT15")
def channels_set_to_zero_by_a_penalty(seed: int) -> Program:
    samples, model = parts.digits(seed, image=True), cnn(norm=True, widths=(32, 32))
    norms = [norm for norm in model if isinstance(norm, nn.BatchNorm2d)]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        penalty: Any = sum(norm.weight.abs().sum() for norm in norms)
        return functional.cross_entropy(output, target) + 3e-3 * penalty  # type: ignore[no-any-return]

    return Program(model, samples, loss, error_rate, 0.05, sgd(0.9), 250)


@healthy("KT16")
def sixteen_parts_of_a_batch(seed: int) -> Program:
    model = mlp(2, 32, 32, 3, activation=nn.Tanh)
    program = Program(model, data.rings(seed), CrossEntropy(), error_rate, 1e-2, Adam, 120, 4)
    program.accumulate = 16
    return program
