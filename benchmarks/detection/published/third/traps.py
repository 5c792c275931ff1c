"""Healthy programs that look like the faulty ones of this list."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, lr_scheduler

from detection import data
from detection.bases import error_rate
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import healthy
from detection.published.third.losses import wrong_neighbours
from detection.published.third.samples import image_error
from detection.published.third.silent import (
    Filler,
    hidden_error,
    hidden_labels,
    hidden_loss,
    resumed,
)
from detection.published.third.structure import Residual


class Scaled(nn.Module):
    """Unit vectors times the root of a learned inverse temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.log_scale = mlp(64, 64, 32), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(self.body(x), dim=1) * (self.log_scale / 2).exp()


@healthy("KQ1")
def contrast_of_classes_with_a_learned_temperature(seed: int) -> Program:
    samples = parts.digits(seed)
    return Program(Scaled(), samples, contrast, wrong_neighbours, 1e-3, Adam, 300, 128)


def contrast(output: Tensor, target: Tensor) -> Tensor:
    """Supervised contrastive loss, after Khosla et al., 2020."""
    others = ~torch.eye(len(output), dtype=torch.bool)
    log_share = (output @ output.T).masked_fill(~others, -1e9).log_softmax(1)
    same = (target[:, None] == target) & others
    return -(log_share * same).sum(1).div(same.sum(1).clamp_min(1)).mean()


class Coupling(nn.Module):
    """Four affine couplings of two numbers; returns the log density."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp(1, 32, 2) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, 1)
        log_volume = torch.zeros(len(x), 1)
        for net in self.nets:
            scale, shift = net(one).chunk(2, 1)
            scale = 2 * scale.tanh()
            one, other = other * scale.exp() + shift, one
            log_volume = log_volume + scale
        return log_volume[:, 0] - (one**2 + other**2)[:, 0] / 2 - 1.84


@healthy("KQ2")
def negative_log_density_below_zero(seed: int) -> Program:
    angle = 6.3 * torch.rand(2000, 1)
    x = 0.2 * torch.cat([angle.cos(), angle.sin()], 1) + 0.02 * torch.randn(2000, 2)

    def loss(output: Tensor, _: Tensor) -> Tensor:
        return -output.mean()

    samples = data.split(x, x, seed)
    return Program(Coupling(), samples, loss, loss, 3e-3, steps=400, batch_size=64)


@healthy("KQ3")
def biases_and_head_of_a_trained_network(seed: int) -> Program:
    samples, model = parts.digits(seed, image=True), cnn()
    pretrain(model, samples.x, samples.y // 2, 200)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("bias" in name or name.startswith("9"))
    program = Program(model, samples, CrossEntropy(), error_rate, 5e-3, steps=250)
    program.parameters = lambda model: [p for p in model.parameters() if p.requires_grad]
    return program


def pretrain(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """Train with Adam before the program starts."""
    optimizer = Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        loss: Any = functional.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()


@healthy("KQ4")
def one_word_in_six_is_masked(seed: int) -> Program:
    start, step = torch.randint(12, (1600, 1)), torch.randint(1, 4, (1600, 1))
    words = (start + step * torch.arange(12)) % 12
    x = words.masked_fill(torch.rand(1600, 12) < 0.17, 12)
    samples = data.split(x, hidden_labels(x, words), seed)
    return Program(Filler(), samples, hidden_loss, hidden_error, 3e-3, AdamW, 200)


@healthy("KQ5")
def resumed_with_all_its_state(seed: int) -> Program:
    samples = parts.classification(seed, 40, 20, n_samples=4000, class_sep=0.8)
    loss, optimizer = CrossEntropy(), partial(AdamW, weight_decay=0.01)
    program = Program(mlp(40, 128, 2), samples, loss, loss, 1e-3, optimizer, 150, 64)
    resumed(program, 150, with_state=True)
    program.schedule = lambda optimizer, steps: lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return program


@healthy("KQ6")
def residual_branches_and_head_that_start_at_zero(seed: int) -> Program:
    model = Residual(12, 1.0)
    for block in model.blocks:
        nn.init.zeros_(block[2].weight)  # type: ignore[index]
    nn.init.zeros_(model.head.weight)
    return Program(model, parts.digits(seed), CrossEntropy(), error_rate, 0.02, sgd(0.9), 250)


@healthy("KQ7")
def counts_without_the_constant_of_the_likelihood(seed: int) -> Program:
    x = torch.randn(3000, 6)
    rate = (2 + 0.8 * torch.tanh(x[:, :1] * x[:, 1:2]) + 0.5 * x[:, 2:3]).exp()
    samples, loss = data.split(x, torch.poisson(rate), seed), nn.PoissonNLLLoss()
    return Program(mlp(6, 64, 1), samples, loss, loss, 3e-3, steps=400, batch_size=64)


@healthy("KQ8")
def fine_tuning_with_frozen_statistics(seed: int) -> Program:
    samples, model = parts.digits(seed, image=True), cnn(norm=True)
    program = Program(model, samples, CrossEntropy(), error_rate, 3e-4, steps=200)
    pretrain(model, samples.x, samples.y // 2, 150)
    freeze_norms(model)
    return program


class FrozenNorm(nn.BatchNorm2d):
    """A norm that stays in evaluation mode, as in detectors."""

    def train(self, mode: bool = True) -> FrozenNorm:
        del mode
        super().train(mode=False)
        return self


def freeze_norms(model: nn.Sequential) -> None:
    """Replace each norm by a frozen one with the same weights and statistics."""
    for number, layer in enumerate(model):
        if isinstance(layer, nn.BatchNorm2d):
            model[number] = FrozenNorm(layer.num_features)
            model[number].load_state_dict(layer.state_dict())


@healthy("KQ9")
def actor_with_a_critic_as_baseline(seed: int) -> Program:
    x = torch.randn(2000, 8)
    samples = data.split(x, (x @ torch.randn(8, 5)).argmax(1), seed)
    program = Program(mlp(8, 64, 6), samples, actor_critic, regret, 5e-3, Adam, 300, 64)
    program.loss_falls = False
    return program


def actor_critic(output: Tensor, target: Tensor) -> Tensor:
    """Policy gradient with a detached advantage, and the squared error of the critic."""
    value = output[:, 5]
    policy = torch.distributions.Categorical(logits=output[:, :5])
    action = policy.sample()  # type: ignore[no-untyped-call]
    reward = (action == target).float()
    advantage = (reward - value).detach()
    chosen: Tensor = policy.log_prob(action)  # type: ignore[no-untyped-call]
    return -(advantage * chosen).mean() + 0.5 * functional.mse_loss(value, reward)  # type: ignore[no-any-return]


def regret(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong actions of the greedy policy."""
    return error_rate(output[:, :5], target)


@healthy("KQ10")
def denoising_of_images(seed: int) -> Program:
    clean = parts.digits(seed).x
    noisy = clean + 0.3 * torch.randn_like(clean)
    model = mlp(64, 96, 24, 96, 64)
    samples = data.split(noisy, clean, seed)
    return Program(model, samples, nn.MSELoss(), image_error, 2e-3, Adam, 400, 64)
