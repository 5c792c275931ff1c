"""Healthy variants of the unseen programs whose properties look like faults, and plain ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, Optimizer, RMSprop, lr_scheduler

from detection.controls.register import control
from detection.program import Program, weight_layers
from detection.unseen.programs import (
    CHIRPS,
    CLAIMS,
    PATIENTS,
    PENDULUMS,
    PHOTO,
    QUERIES,
    RECIPES,
    SALES,
    SOLIDS,
    HazardLoss,
    TweedieLoss,
    cosine,
)
from detection.unseen.samples import HIDDEN, MASK, WORDS

# Optimizers and loops.


@control(f"{SALES} {SOLIDS} {PATIENTS}")
def adamw_with_a_cosine(p: Program) -> None:
    p.optimizer = lambda parameters, lr: AdamW(parameters, lr, weight_decay=0.05)
    p.lr, p.schedule = 5e-3, cosine


@control(f"{SOLIDS} {QUERIES} {SALES}")
def sgd_with_momentum(p: Program) -> None:
    p.optimizer = lambda parameters, lr: SGD(parameters, lr, momentum=0.9)
    p.lr = 0.05


@control(f"{CLAIMS} {PHOTO}")
def adadelta_with_a_rate_of_one(p: Program) -> None:
    p.optimizer, p.lr = Adadelta, 1.0


@control(f"{QUERIES} {PATIENTS}")
def adagrad_with_its_falling_rate(p: Program) -> None:
    p.optimizer, p.lr, p.schedule = Adagrad, 0.05, None


@control(f"{CLAIMS} {PENDULUMS}")
def rmsprop_with_momentum(p: Program) -> None:
    p.optimizer = lambda parameters, lr: RMSprop(parameters, lr, momentum=0.5)
    p.lr = 1e-3


@control(f"{RECIPES} {CHIRPS}")
def accumulation_of_two_small_batches(p: Program) -> None:
    p.accumulate, p.batch_size = 2, 24


@control(f"{QUERIES} {PHOTO}")
def clipped_in_nearly_every_step(p: Program) -> None:
    p.clip_norm = 0.1


@control(f"{SALES} {CLAIMS} {PHOTO} {SOLIDS}")
def validation_every_ten_steps(p: Program) -> None:
    p.validate_every = 10


@control(f"{SOLIDS} {SALES} {PENDULUMS}")
def one_cycle_with_a_high_peak(p: Program) -> None:
    p.schedule = lambda o, steps: lr_scheduler.OneCycleLR(o, 1.5e-2, steps)


@control(f"{PHOTO} {CHIRPS}")
def rate_halved_twice(p: Program) -> None:
    p.schedule = lambda o, steps: lr_scheduler.StepLR(o, steps // 3, 0.5)


@control(f"{QUERIES} {PATIENTS}")
def batches_of_eight(p: Program) -> None:
    p.batch_size, p.lr, p.steps = 8, p.lr / 4, 500


@control(f"{RECIPES} {CLAIMS}")
def no_decay_for_vectors(p: Program) -> None:
    def groups(model: nn.Module) -> list[dict[str, object]]:
        matrices = [w for w in model.parameters() if w.ndim > 1]
        vectors = [w for w in model.parameters() if w.ndim < 2]
        return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]

    p.parameters = groups


@control(f"{PENDULUMS} {SALES}")
def average_with_a_decay_of_095(p: Program) -> None:
    average = copy.deepcopy(p.model)

    def event(step: int, program: Program, _: Optimizer) -> None:
        for slow, fast in zip(average.parameters(), program.model.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.05)
        if step == program.steps - 1:
            program.model.load_state_dict(average.state_dict())

    p.events.append(event)


@control(f"{PENDULUMS}")
def slow_sgd_with_clipping(p: Program) -> None:
    p.optimizer = lambda parameters, lr: SGD(parameters, lr, momentum=0.9)
    p.lr, p.clip_norm = 0.05, 1.0


# First weights.


@control(f"{SALES} {QUERIES} {PHOTO}")
def last_layer_of_zeros(p: Program) -> None:
    _, layer = weight_layers(p.model)[-1]
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


@control(f"{CHIRPS} {PATIENTS}")
def last_bias_from_the_prior(p: Program) -> None:
    name, layer = weight_layers(p.model)[-1]
    nn.init.constant_(layer.bias, -0.62 if name == "classifier" else -1.5)


@control(f"{CLAIMS}")
def second_layer_of_each_branch_of_zeros(p: Program) -> None:
    for block in p.model.blocks:
        nn.init.zeros_(block.linear2.weight)
        nn.init.zeros_(block.linear2.bias)


@control(f"{PATIENTS} {SOLIDS}")
def weights_of_he_and_biases_of_zero(p: Program) -> None:
    for _, layer in weight_layers(p.model):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)


# Data and losses.


@control(CLAIMS)
def costs_with_a_power_near_that_of_poisson(p: Program) -> None:
    p.loss = TweedieLoss()
    p.loss.power = 1.2


@control(CHIRPS)
def bands_and_frames_masked_at_random(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        band, frame = torch.randint(22, ()), torch.randint(28, ())
        x = x.clone()
        x[:, :, band : band + 2] = 0
        x[:, :, :, frame : frame + 4] = 0
        return x, y

    p.collate = collate


@control(CHIRPS)
def most_labels_are_negative(p: Program) -> None:
    p.loss = nn.BCEWithLogitsLoss(pos_weight=torch.full((5,), 2.0))


@control(QUERIES)
def logistic_loss_of_pairs(p: Program) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        better = (target[:, :, None] > target[:, None]).float()
        gap = output[:, :, None] - output[:, None]
        return (better * F.softplus(-gap)).sum() / better.sum()

    p.loss = loss


class WithRanking(HazardLoss):
    """A small term for the order of the expected times."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return super().forward(output, target) + 1e-3 * output.square().mean()


@control(PATIENTS)
def a_small_penalty_on_the_logits(p: Program) -> None:
    p.loss = WithRanking()


@control(SOLIDS)
def clouds_of_another_number_of_points_in_each_batch(p: Program) -> None:
    p.collate = lambda step, x, y: (x[:, : 24 + step % 25], y)


@control(SOLIDS)
def mixed_clouds_and_no_smoothing(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        order, part = torch.randperm(len(x)), int(torch.randint(12, ()))
        wanted = F.one_hot(y, 5).float()
        share = part / x.shape[1]
        mixed = torch.cat((x[order, :part], x[:, part:]), 1)
        return mixed, share * wanted[order] + (1 - share) * wanted

    p.collate, p.loss = collate, nn.CrossEntropyLoss()


@control(PENDULUMS)
def relative_error_of_later_states(p: Program) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        weight = torch.linspace(1.5, 0.5, output.shape[1])[:, None]
        return (weight * (output - target) ** 2).mean()

    p.loss = loss


@control(RECIPES)
def masked_words_drawn_again(p: Program) -> None:
    # A tenth of the masked positions keeps a random word, as in BERT.
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        drawn = (x == MASK) & (torch.rand(x.shape) < 0.1)
        return torch.where(drawn, torch.randint(MASK - WORDS, MASK, x.shape), x), y

    p.collate = collate


@control(RECIPES)
def encoder_under_bfloat16_autocast(p: Program) -> None:
    p.model.autocast, p.batch_size = True, 24


@control(RECIPES)
def half_of_the_targets_left_out(p: Program) -> None:
    p.steps = 400
    p.collate = lambda _, x, y: (x, y.masked_fill(torch.rand(y.shape) < 0.5, HIDDEN))


@control(SALES)
def squared_error_of_the_forecast(p: Program) -> None:
    p.loss = nn.MSELoss()


@control(PHOTO)
def noise_on_the_small_image(p: Program) -> None:
    p.collate = lambda _, x, y: (x + 0.03 * torch.randn_like(x), y)


@control(PHOTO)
def small_and_large_image_flipped_together(p: Program) -> None:
    def collate(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x.flip(3), y.flip(3)) if step % 2 else (x, y)

    p.collate, p.optimizer = collate, Adam
