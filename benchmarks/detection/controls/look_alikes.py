"""Healthy variants of the programs of the second part whose properties look like faults."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn, optim
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import lr_scheduler

from detection.controls.register import control
from detection.program import Program, hidden_layers, output_layer
from detection.second_part.mapping import (
    ACTOR,
    BLOBS,
    ENCODER,
    SELU,
    SIGNAL,
    TABLE,
    TAGGER,
    TRANSLATOR,
    VAE,
    VGG,
)
from detection.second_part.programs import ELBO, ActorCriticLoss
from detection.second_part.samples import IGNORED


@control(f"{TAGGER} {TRANSLATOR}")
def seventy_percent_of_tokens_ignored(p: Program) -> None:
    def mask(y: Tensor) -> Tensor:
        return y.masked_fill(torch.rand(y.shape) < 0.7, IGNORED)

    p.with_targets(mask, test=False)


@control(TABLE)
def positive_class_weighted_times_four(p: Program) -> None:
    p.loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(4.0))


@control(BLOBS)
def pixels_weighted_by_class(p: Program) -> None:
    share = torch.bincount(p.data.y.flatten()).float()
    p.loss = nn.CrossEntropyLoss(weight=share.sum() / (3 * share))


@control(BLOBS)
def images_flipped_with_their_masks(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        flipped = torch.rand(len(x), 1, 1) < 0.5
        return torch.where(flipped[:, None], x.flip(3), x), torch.where(flipped, y.flip(2), y)

    p.collate = collate


class AnnealedELBO(ELBO):
    """The divergence's weight rises from 0 to 1 in the first 120 batches."""

    batches = 0

    def forward(self, output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        self.batches += 1
        weight = min(1.0, self.batches / 120)
        return self.pixels(output[0], target) + weight * self.divergence(*output[1:])


@control(VAE)
def divergence_annealed(p: Program) -> None:
    p.loss = AnnealedELBO()


@control(VAE)
def denoising(p: Program) -> None:
    p.collate = lambda _, x, y: (x * (torch.rand(x.shape) > 0.15), y)


@control(ACTOR, name="actor_critic_declared")
def loss_need_not_fall(p: Program) -> None:
    p.loss_falls = False


class NormalisedAdvantage(ActorCriticLoss):
    """Advantages of mean 0 and deviation 1 in each batch."""

    def advantage(self, reward: Tensor, value: Tensor) -> Tensor:
        advantage = super().advantage(reward, value)
        return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


@control(ACTOR)
def advantages_normalised(p: Program) -> None:
    p.loss = NormalisedAdvantage()


@control(f"{VGG} {BLOBS} {SELU}")
def head_of_zeros(p: Program) -> None:
    _, layer = output_layer(p.model)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


@control(TABLE)
def head_bias_at_the_prior(p: Program) -> None:
    keep = (p.data.y < 0.5) | (torch.arange(len(p.data.y)) % 4 == 0)
    p.data = replace(p.data, x=p.data.x[keep], y=p.data.y[keep])
    prior = p.data.y.mean()
    nn.init.constant_(output_layer(p.model)[1].bias, float((prior / (1 - prior)).log()))


@control(TRANSLATOR)
def tied_embeddings(p: Program) -> None:
    p.model.head.weight = p.model.embedding.weight
    nn.init.normal_(p.model.embedding.weight, std=0.16)


@control(TAGGER)
def frozen_embeddings(p: Program) -> None:
    p.model.embedding.requires_grad_(False)
    p.parameters = lambda model: [w for w in model.parameters() if w.requires_grad]


@control(f"{VGG} {SELU}")
def weights_normalised(p: Program) -> None:
    for _, layer in hidden_layers(p.model):
        weight_norm(layer)


@control(VGG)
def mixup(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        share, order = 0.5 + 0.5 * torch.rand(()), torch.randperm(len(x))
        targets = nn.functional.one_hot(y, 5).float()
        return share * x + (1 - share) * x[order], share * targets + (1 - share) * targets[order]

    p.collate = collate


@control(f"{SIGNAL} {VGG}")
def batch_of_128(p: Program) -> None:
    p.batch_size, p.steps = 128, 100


@control(ENCODER)
def inverse_root_schedule(p: Program) -> None:
    def schedule(optimizer: optim.Optimizer, _: int) -> lr_scheduler.LRScheduler:
        def rate(t: int) -> float:
            return min((t + 1) / 40, (40 / (t + 1)) ** 0.5)

        return lr_scheduler.LambdaLR(optimizer, rate)

    p.schedule = schedule


@control(f"{ENCODER} {SIGNAL}")
def no_decay_on_norms_and_biases(p: Program) -> None:
    def make(parameters: list[Tensor], lr: float) -> optim.Optimizer:
        decayed = [w for w in parameters if w.ndim > 1]
        others = [w for w in parameters if w.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}]
        return optim.AdamW(groups, lr)

    p.optimizer = make


@control(ENCODER)
def head_with_ten_times_the_rate(p: Program) -> None:
    def make(parameters: list[Tensor], lr: float) -> optim.Optimizer:
        groups = [{"params": parameters[:-2]}, {"params": parameters[-2:], "lr": 10 * lr}]
        return optim.AdamW(groups, lr / 3)

    p.optimizer = make


@control(TABLE)
def amsgrad(p: Program) -> None:
    p.optimizer, p.lr = lambda w, lr: optim.Adam(w, lr, amsgrad=True), 5e-3


@control(f"{TABLE} {SIGNAL}")
def gradual_unfreezing(p: Program) -> None:
    # The first layer trains from step 60 on, with its own group added then.
    first = hidden_layers(p.model)[0][1].requires_grad_(False)
    p.parameters = lambda model: [w for w in model.parameters() if w.requires_grad]
    p.schedule = None

    def event(step: int, _: Program, optimizer: optim.Optimizer) -> None:
        if step == 59:
            first.requires_grad_(True)
            optimizer.add_param_group({"params": [*first.parameters()]})

    p.events.append(event)
