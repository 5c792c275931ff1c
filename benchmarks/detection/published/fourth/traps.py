"""Healthy programs that look like the faulty ones of this list."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer, RMSprop, lr_scheduler

from detection import data, models
from detection.bases import error_rate, squared_error
from detection.program import Data, Program
from detection.published import parts
from detection.published.fourth.losses import pinball, returns
from detection.published.fourth.rates import Ratings, ratings
from detection.published.fourth.starts import branches, mixture
from detection.published.fourth.wiring import gap_of_means, two_players
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, cnn, mlp, sgd
from detection.published.register import healthy


class Reward(nn.Module):
    """Policy gradient without a baseline; the reward is 5 for the right action and 1 otherwise."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=output)
        action = policy.sample()  # type: ignore[no-untyped-call]
        reward = 1 + 4 * (action == target).float()
        return -(reward * policy.log_prob(action)).mean()  # type: ignore[no-untyped-call,no-any-return]


@healthy("KR1")
def policy_gradient_without_a_baseline(seed: int) -> Program:
    x = torch.randn(2000, 6)
    samples = data.split(x, (x @ torch.randn(6, 4)).argmax(1), seed)
    program = Program(mlp(6, 64, 4), samples, Reward(), error_rate, 3e-3, Adam, 400, 128)
    program.loss_falls = False
    return program


def circle(seed: int) -> Data:
    """Moves on a ring of 12 places: the place, the next one, the action and the reward."""
    here, action = torch.randint(12, (4000,)), torch.randint(2, (4000,))
    there = (here + 2 * action - 1) % 12
    reward = (there == 6).float() + 0.5
    x = torch.cat([torch.eye(12)[here], torch.eye(12)[there]], 1)
    return data.split(x, torch.stack([action.float(), reward, here.float()], 1), seed)


def bootstrapped(output: Tensor, target: Tensor) -> Tensor:
    """Loss of the values against the reward and the discounted next value."""
    now, after = output.chunk(2, 1)
    aim = target[:, 1] + 0.9 * after.detach().max(1).values
    return functional.smooth_l1_loss(now.gather(1, target[:, :1].long())[:, 0], aim)


def wrong_way(output: Tensor, target: Tensor) -> Tensor:
    """Share of places from which the better action does not lead towards place 6."""
    here = target[:, 2]
    asked = (here != 6) & (here != 0)
    return ((output[:, :2].argmax(1) == 1) != (here < 6))[asked].float().mean()


@healthy("KR2")
def values_that_grow_from_their_own_estimates(seed: int) -> Program:
    program = Program(mlp(12, 64, 2), circle(seed), bootstrapped, wrong_way, 3e-3, Adam, 500, 64)
    program.forward = lambda model, x: torch.cat([model(x[:, :12]), model(x[:, 12:])], 1)
    program.loss_falls = False
    return program


@healthy("KR3")
def generator_of_an_arc(_: int) -> Program:
    model = nn.ModuleDict({"generator": mlp(8, 64, 2), "critic": mlp(2, 64, 1)})
    x, angle = torch.randn(512, 8), 3.14 * torch.rand(512, 1)
    y = 0.5 + torch.cat([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(512, 2)
    program = Program(model, Data(x, y, x, y), BinaryCrossEntropy(), gap_of_means, 1e-3)
    program.optimizer = lambda _, lr: [
        Adam(part.parameters(), lr, (0.5, 0.999)) for part in model.values()
    ]
    program.forward, program.steps = lambda model, x: model["generator"](x), 700  # type: ignore[index]
    program.step, program.loss_falls = partial(two_players, detached=False), False
    return program


@healthy("KR4")
def counts_of_words_mostly_zero(seed: int) -> Program:
    y = torch.randint(4, (2000,))
    share = torch.softmax(1.5 * torch.randn(4, 500), 1)
    words = torch.multinomial(share[y], 12, True)
    x = torch.zeros(2000, 500).scatter_add_(1, words, torch.ones(2000, 12))
    samples = data.split(x, y, seed)
    return Program(mlp(500, 64, 4), samples, CrossEntropy(), error_rate, 3e-3, Adam, 250)


class Prices(nn.Module):
    """A network whose output is scaled to the unit of the targets."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.body, self.mean, self.deviation = mlp(10, 64, 1), mean, deviation

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.deviation * self.body(x)  # type: ignore[no-any-return]


@healthy("KR5")
def prices_in_their_own_unit(seed: int) -> Program:
    samples = data.friedman(seed)
    program = Program(Prices(320, 80), samples, nn.L1Loss(), squared_error, 3e-3, Adam, 400)
    program.with_targets(lambda y: 320 + 80 * y)
    return program


@healthy("KR6")
def upper_layers_of_a_trained_network(seed: int) -> Program:
    samples, model = parts.digits(seed, image=True), cnn(norm=True)
    optimizer = Adam(model.parameters(), 2e-3)
    for _ in range(150):
        chosen = torch.randint(len(samples.x), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(model(samples.x[chosen]), samples.y[chosen] % 5).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model[-1].reset_parameters()  # type: ignore[operator]
    for layer in model[:4]:  # type: ignore[attr-defined]
        layer.requires_grad_(False)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, AdamW, 200, 64)
    program.parameters = lambda model: [p for p in model.parameters() if p.requires_grad]
    return program


@healthy("KR7")
def dropout_of_four_fifths_in_a_wide_network(seed: int) -> Program:
    samples, model = parts.digits(seed), mlp(64, 1024, 10, dropout=0.8)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, Adam, 300, 64)
    program.validate_every = 20
    return program


@healthy("KR8")
def rate_that_rises_and_falls_four_times(seed: int) -> Program:
    samples, model = parts.figures(seed), cnn(3, size=16)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, sgd(0.9), 400)
    program.schedule = lambda optimizer, _: lr_scheduler.CyclicLR(
        optimizer, 1e-3, 0.04, step_size_up=50, mode="triangular2"
    )
    return program


def views(output: Tensor, _: Tensor) -> Tensor:
    """Contrastive loss of two views of each sample after Chen et al., temperature 0.5."""
    unit = functional.normalize(output, dim=1)
    score = (unit @ unit.T / 0.5).masked_fill(torch.eye(len(unit), dtype=torch.bool), -1e9)
    return functional.cross_entropy(score, torch.arange(len(unit)).roll(len(unit) // 2))


def wrong_class_nearby(output: Tensor, target: Tensor) -> Tensor:
    """Share of samples whose most similar other sample has another class."""
    unit = functional.normalize(output, dim=1)
    score = (unit @ unit.T).fill_diagonal_(-2)
    return (target[score.argmax(1)] != target).float().mean()


@healthy("KR9")
def two_views_that_share_a_third_of_the_inputs(seed: int) -> Program:
    def paired(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        one, other = (torch.cat([x[:, :10], 2 * torch.randn(len(x), 22)], 1) for _ in range(2))
        return torch.cat([one, other]), y

    samples = data.clusters(seed, classes=4, features=10)
    program = Program(mlp(32, 64, 32), samples, views, wrong_class_nearby, 1e-3, Adam, 300, 64)
    program.with_inputs(lambda x: torch.cat([x, 2 * torch.randn(len(x), 22)], 1))
    program.collate = paired
    return program


@healthy("KR10")
def forecast_with_warm_restarts(seed: int) -> Program:
    model = models.Recurrent(nn.GRU, 1, 24, 1, every=True)
    program = Program(model, data.waves(seed), nn.MSELoss(), squared_error, 0.01, Adam, 300)
    program.schedule = lambda optimizer, _: lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, 60, eta_min=1e-4
    )
    return program


@healthy("KR11")
def three_images_per_batch(seed: int) -> Program:
    samples, model = parts.figures(seed), cnn(3, size=16)
    return Program(model, samples, CrossEntropy(), error_rate, 3e-4, Adam, 600, 3)


@healthy("KR12")
def mixture_of_three_densities(seed: int) -> Program:
    model = mlp(1, 48, 9)
    model[-1].bias.data[3:6] = torch.tensor([-1.0, 0.0, 1.0])  # type: ignore[operator]
    return Program(model, branches(seed), mixture, mixture, 5e-3, Adam, 400, 64)


@healthy("KR13")
def loss_times_one_thousandth(seed: int) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return 1e-3 * functional.cross_entropy(output, target)

    model = models.Recurrent(nn.LSTM, 4, 24, 4)
    return Program(model, data.cue(seed), loss, error_rate, 1e-2, Adam, 300)


@healthy("KR14")
def five_levels_of_the_return(seed: int) -> Program:
    model = mlp(6, 64, 5)
    return Program(model, returns(seed), pinball, pinball, 3e-3, RMSprop, 400, 64)


def shrink(_: int, program: Program, optimizer: Optimizer) -> None:
    """Move the first layer's weights towards zero, and set the small ones to zero."""
    weight: Any = program.model[0].weight  # type: ignore[index]
    with torch.no_grad():
        limit = 0.1 * optimizer.param_groups[0]["lr"]
        weight.copy_(functional.softshrink(weight, limit))


@healthy("KR15")
def weights_set_to_zero_by_a_penalty(seed: int) -> Program:
    samples = parts.classification(seed, 60, 6, n_samples=3000, class_sep=1.2)
    program = Program(mlp(60, 32, 2), samples, CrossEntropy(), error_rate, 0.05, sgd(0.9), 400)
    program.events.append(shrink)
    return program


@healthy("KR16")
def eight_parts_of_a_batch(seed: int) -> Program:
    samples, model = ratings(seed), Ratings(100, 60, 4)
    program = Program(model, samples, functional.mse_loss, squared_error, 0.02, Adam, 200, 16)
    program.accumulate = 8
    return program
