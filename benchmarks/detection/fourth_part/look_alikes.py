"""Healthy variants of the programs of the fourth part whose properties look like faults."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from detection.controls.register import control
from detection.fourth_part import models
from detection.fourth_part.mapping import (
    CLICKS,
    DETECTOR,
    DIFFUSION,
    MELODIES,
    PLATE,
    SIAMESE,
    STRIPS,
    WIND,
)
from detection.fourth_part.programs import (
    DetectionLoss,
    GaussianLoss,
    PhysicsLoss,
    SequenceLoss,
    TripletLoss,
)
from detection.fourth_part.samples import NUMBERS
from detection.program import Program, output_layer

# Noise prediction.


@control(DIFFUSION)
def branches_and_head_that_start_at_zero(p: Program) -> None:
    for layer in (*(block.fc1 for block in p.model.blocks), p.model.head):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


@control(DIFFUSION)
def the_time_left_out_of_a_tenth_of_the_samples(p: Program) -> None:
    # As conditions are, for guidance without a classifier.
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        left_out = torch.rand(len(x), 1) < 0.1
        return torch.cat((x[:, :2], x[:, 2:].masked_fill(left_out, 0.0)), 1), y

    p.collate = collate


@control(DIFFUSION)
def late_times_drawn_more_often(p: Program) -> None:
    p.sample = lambda p, _, g: torch.multinomial(
        p.data.x[:, 2] + 0.1, p.batch_size, replacement=True, generator=g
    )


# Triplets.


@control(SIAMESE)
def margin_that_most_triplets_keep(p: Program) -> None:
    p.loss = TripletLoss(margin=0.1)


@control(SIAMESE)
def margin_without_a_limit(p: Program) -> None:
    def loss(output: Tensor, _: Tensor) -> Tensor:
        first, same, other = output.unbind(1)
        near, far = ((first - each).norm(dim=1) for each in (same, other))
        return F.softplus(5 * (near - far)).mean()

    p.loss = loss


@control(SIAMESE)
def embeddings_without_a_norm(p: Program) -> None:
    p.model.normalise = False


class Hardest(TripletLoss):
    """The mean over the hardest third of the triplets of a batch."""

    def forward(self, output: Tensor, _: Tensor) -> Tensor:  # type: ignore[override]
        each = F.triplet_margin_loss(*output.unbind(1), margin=self.margin, reduction="none")
        return each.topk(len(each) // 3).values.mean()


@control(SIAMESE)
def hardest_third_of_the_triplets(p: Program) -> None:
    p.loss = Hardest(margin=0.5)


# Boxes.


class WithoutBoxes(DetectionLoss):
    """Images of the last class have no box."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        kind = self.kind(output[:, :-4], target[:, 0].long())
        has = (target[:, 0] != 3).float()[:, None]
        each = F.smooth_l1_loss(output[:, -4:], target[:, 1:], beta=0.1, reduction="none")
        return kind + self.weight * (has * each).sum() / (4 * has.sum()).clamp_min(1)


@control(DETECTOR)
def a_class_without_boxes(p: Program) -> None:
    p.loss = WithoutBoxes()


class SoftKinds(DetectionLoss):
    """Smoothed labels, and a mean over the samples with unequal weights of the classes."""

    def kind(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = torch.tensor([0.5, 1.0, 1.0, 2.0])
        return F.cross_entropy(logits, target, weight, label_smoothing=0.1)


@control(DETECTOR)
def smoothed_and_weighted_classes(p: Program) -> None:
    p.loss = SoftKinds()


@control(DETECTOR)
def backbone_trained_before_and_frozen(p: Program) -> None:
    # Transfer: the backbone knows the classes and boxes; new heads are trained on it.
    def pretrain(program: Program, _: optim.Optimizer) -> None:
        model = program.model
        optimizer = optim.Adam(model.parameters(), 3e-3)
        for _ in range(150):
            rows = torch.randint(len(program.data.x), (32,))
            optimizer.zero_grad()
            program.loss(model(program.data.x[rows]), program.data.y[rows]).backward()
            optimizer.step()
        optimizer.zero_grad()
        for layer in (model.fc, model.classes, model.boxes):
            layer.reset_parameters()
        model.backbone.requires_grad_(False)

    p.started.append(pretrain)
    p.parameters = lambda model: [
        w for n, w in model.named_parameters() if not n.startswith("backbone.")
    ]


@control(DETECTOR)
def boxes_between_zero_and_one_by_a_sigmoid(p: Program) -> None:
    p.forward = lambda model, x: torch.cat(_halves(model(x)), 1)


def _halves(output: Tensor) -> tuple[Tensor, Tensor]:
    return output[:, :-4], output[:, -4:].sigmoid()


# Melodies.


@control(MELODIES)
def the_state_starts_again_at_every_chunk(p: Program) -> None:
    p.model.kept = lambda _: None


@control(MELODIES)
def separate_output_layer(p: Program) -> None:
    p.model.decoder = nn.Linear(40, 16)


@control(MELODIES)
def first_notes_of_a_chunk_without_a_target(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        y = y.clone()
        y[:, :5] = -100
        return x, y

    p.collate = collate


@control(MELODIES)
def sgd_at_a_rate_of_ten_and_clipped(p: Program) -> None:
    p.optimizer, p.lr, p.clip_norm = optim.SGD, 10.0, 0.25


# Mean and variance.


class SoftplusVariance(GaussianLoss):
    """The variance is a softplus with a floor."""

    def variance(self, logarithm: Tensor) -> Tensor:
        return F.softplus(logarithm) + 1e-3


def score_of_a_softplus(p: Program) -> None:
    """Use the logarithm of the softplus in the metric."""
    metric = p.metric
    p.metric = lambda output, target: metric(
        torch.cat((output[:, :1], (F.softplus(output[:, 1:]) + 1e-3).log()), 1), target
    )


@control(WIND)
def variance_by_a_softplus(p: Program) -> None:
    p.loss = SoftplusVariance()
    score_of_a_softplus(p)


@control(WIND)
def the_mean_is_learned_before_the_variance(p: Program) -> None:
    # For 80 steps the loss is the squared error alone.
    later = p.loss
    p.loss = lambda output, target: F.mse_loss(output[:, :1], target)

    def event(step: int, program: Program, _: object) -> None:
        if step == 79:
            program.loss = later

    p.events.append(event)


@control(WIND)
def one_variance_for_all(p: Program) -> None:
    with torch.no_grad():
        p.model.head.weight[1].zero_()
    p.forward = lambda model, x: torch.cat(
        (model(x)[:, :1], model.head.bias[1].expand(len(x), 1)), 1
    )


# Clicks.


@control(CLICKS)
def most_codes_never_occur(p: Program) -> None:
    for part in (p.model.weights, p.model.factors):
        for i, old in enumerate(part):
            part[i] = nn.Embedding(20 * old.num_embeddings, old.embedding_dim)
            nn.init.normal_(part[i].weight, std=0.1)


@control(CLICKS)
def clicks_weighted_by_five(p: Program) -> None:
    p.loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(5.0))


@control(CLICKS)
def clicks_drawn_as_often_as_the_others(p: Program) -> None:
    def sample(p: Program, _: int, generator: torch.Generator) -> Tensor:
        clicked = p.data.y[:, 0]
        weights = clicked / clicked.sum() + (1 - clicked) / (1 - clicked).sum()
        return torch.multinomial(weights, p.batch_size, replacement=True, generator=generator)

    p.sample = sample


@control(CLICKS)
def head_bias_at_the_click_rate(p: Program) -> None:
    rate = float(p.data.y.mean())
    nn.init.constant_(output_layer(p.model)[1].bias, math.log(rate / (1 - rate)))


@control(CLICKS)
def embeddings_and_layers_with_two_rates(p: Program) -> None:
    def make(parameters: list[Tensor], lr: float) -> Any:
        groups = [{"params": parameters[:8]}, {"params": parameters[8:], "lr": lr / 5}]
        return optim.Adam(groups, lr)

    p.optimizer = make


@control(CLICKS)
def numbers_that_are_mostly_zero(p: Program) -> None:
    def hide(x: Tensor) -> Tensor:
        few = torch.rand(len(x), NUMBERS - 3) < 0.1
        return torch.cat((x[:, :3], x[:, 3:NUMBERS] * few, x[:, NUMBERS:]), 1)

    p.with_inputs(hide)


# Strips.


class TypicalLoss(SequenceLoss):
    """Impossible strips would have a loss of 0; there are none."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        scores = self.scores(output).transpose(0, 1)
        frames = torch.full((len(target),), len(scores), dtype=torch.long)
        return F.ctc_loss(scores, target, frames, self.lengths(target), zero_infinity=True)


@control(STRIPS)
def infinite_losses_would_be_zero(p: Program) -> None:
    p.loss = TypicalLoss()


@control(STRIPS)
def batches_of_equal_length(p: Program) -> None:
    lengths = (p.data.y > 0).sum(1)

    def sample(p: Program, _: int, generator: torch.Generator) -> Tensor:
        length = int(torch.randint(2, 6, (), generator=generator))
        rows = (lengths == length).nonzero()[:, 0]
        return rows[torch.randint(len(rows), (p.batch_size,), generator=generator)]

    p.sample = sample


@control(STRIPS)
def the_blank_starts_with_a_bias_below_zero(p: Program) -> None:
    nn.init.zeros_(p.model.head.bias)
    with torch.no_grad():
        p.model.head.bias[0] = -1.0


# The equation.


class Sine(nn.Module):
    """A sine, as in implicit representations."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


@control(PLATE)
def sines_between_the_layers(p: Program) -> None:
    p.model = models.Field(activation=Sine)


class SmallBorder(PhysicsLoss):
    """The border has a smaller weight than the equation."""

    def border(self, output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return 0.3 * super().border(output, target, weight)


@control(PLATE)
def the_border_as_a_smaller_term(p: Program) -> None:
    p.loss = SmallBorder()


@control(PLATE)
def quasi_newton_after_adam(p: Program) -> None:
    def pretrain(program: Program, _: optim.Optimizer) -> None:
        adam = optim.Adam(program.model.parameters(), 5e-3)
        for _ in range(100):
            rows = torch.randint(len(program.data.x), (128,))
            adam.zero_grad()
            program.loss(program.model(program.data.x[rows]), program.data.y[rows]).backward()
            adam.step()
        adam.zero_grad()

    p.started.append(pretrain)
    p.optimizer = lambda parameters, _: optim.LBFGS(parameters, lr=0.5, max_iter=4)
    p.closure, p.steps, p.schedule = True, 60, None
    p.sample = lambda _, __, ___: torch.arange(512)


@control(PLATE)
def the_border_in_every_batch_and_the_inside_in_some(p: Program) -> None:
    p.sample = lambda p, step, g: torch.multinomial(
        torch.where(p.data.y[:, 2] > 0, 1.0, 0.2 * (step % 2)), 128, generator=g
    )
