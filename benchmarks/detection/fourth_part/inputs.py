"""Inputs, targets and numbers of the programs of the fourth part that are wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.case import Class, Places
from detection.faults.loss import head_of
from detection.faults.pairing import NOT_LEARNABLE
from detection.faults.register import fault
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
from detection.fourth_part.programs import GaussianLoss, PhysicsLoss, SequenceLoss
from detection.fourth_part.samples import FIELDS, NUMBERS, STREAMS, in_chunks
from detection.program import Program, around

DATA, NUMERIC, SILENT = Class.DATA, Class.NUMERIC, Class.SILENT


# Inputs and targets.


@fault(DATA, "unnormalised_input", DIFFUSION)
def times_from_0_to_1000(p: Program) -> Places:
    # The frequencies of the embedding are those of times from 0 to 1.
    def scale(x: Tensor) -> Tensor:
        return torch.cat((x[:, :2], (1000 * x[:, 2:]).round()), 1)

    p.with_inputs(scale)
    return ("", "time*")


@fault(DATA, NOT_LEARNABLE, DIFFUSION)
def noise_drawn_again_for_the_target(p: Program) -> None:
    p.collate = lambda _, x, y: (x, torch.randn_like(y))


@fault(
    DATA,
    "target_not_scaled loss_term_inactive initial_loss_anomaly exploding_gradient "
    "learning_rate_too_high",
    DETECTOR,
)
def boxes_in_pixels_of_the_camera(p: Program) -> None:
    p.with_targets(lambda y: torch.cat((y[:, :1], 640 * y[:, 1:]), 1))


@fault(DATA, NOT_LEARNABLE, DETECTOR)
def images_shifted_without_their_boxes(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        moves = torch.randint(16, (len(x), 2)).tolist()
        moved = [image.roll(move, (1, 2)) for image, move in zip(x, moves, strict=True)]
        return torch.stack(moved), y

    p.collate = collate


def validated(p: Program) -> None:
    """Log a validation loss, as the twin."""
    p.validate_every = 10


@fault(DATA, "overfitting label_noise loss_task_mismatch", DETECTOR, given=validated)
def corners_for_centres_in_the_training(p: Program) -> None:
    # The boxes of the training set have their first corner where the test has the centre.
    p.with_targets(
        lambda y: torch.cat((y[:, :1], y[:, 1:3] - y[:, 3:] / 2, y[:, 3:]), 1), test=False
    )


@fault(DATA, f"{NOT_LEARNABLE} constant_or_duplicate_input", CLICKS)
def codes_numbered_in_each_batch(p: Program) -> None:
    # The encoder of the categories is fitted to each batch.
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone()
        for column in range(NUMBERS, NUMBERS + len(FIELDS)):
            known = x[:, column].unique()
            order = torch.randperm(len(known))
            x[:, column] = order[torch.searchsorted(known, x[:, column].contiguous())].float()
        return x, y

    p.collate = collate


@fault(DATA, f"constant_or_duplicate_input {NOT_LEARNABLE}", CLICKS)
def codes_hashed_into_one_bucket(p: Program) -> None:
    p.with_inputs(lambda x: torch.cat((x[:, :NUMBERS], 0 * x[:, NUMBERS:]), 1))


@fault(DATA, "loss_oscillation class_collapse constant_or_duplicate_input", CLICKS)
def views_sorted_by_click(p: Program) -> None:
    def sample(p: Program, step: int, generator: torch.Generator) -> Tensor:
        rows = (p.data.y[:, 0] == step // 25 % 2).nonzero()[:, 0]
        return rows[torch.randint(len(rows), (p.batch_size,), generator=generator)]

    p.sample = sample


@fault(DATA, NOT_LEARNABLE, STRIPS)
def half_of_the_strips_mirrored(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mirrored = torch.rand(len(x), 1, 1, 1) < 0.5
        return torch.where(mirrored, x.flip(3), x), y

    p.collate = collate


@fault(DATA, NOT_LEARNABLE, MELODIES)
def melodies_cut_along_the_wrong_dimension(p: Program) -> None:
    # The notes of a melody end up in different melodies: view(-1, streams) for view(streams, -1).
    def cut(rows: Tensor) -> Tensor:
        text = rows.unflatten(0, (-1, STREAMS)).transpose(0, 1).flatten(1)
        return in_chunks(text.reshape(-1, STREAMS).T, rows.shape[1])

    p.data = replace(p.data, x=cut(p.data.x), y=cut(p.data.y))


@fault(DATA, f"{NOT_LEARNABLE} constant_or_duplicate_input", SIAMESE)
def the_same_glyph_is_drawn_at_random(p: Program) -> None:
    # The second image of a triplet is of any glyph.
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(x))
        return torch.stack((x[:, 0], x[order, 1], x[:, 2]), 1), y

    p.collate = collate


@fault(DATA, "constant_or_duplicate_input no_learning loss_plateau", PLATE)
def all_points_on_one_line(p: Program) -> None:
    # meshgrid with the same axis twice.
    p.collate = lambda _, x, y: (x[:, :1].expand(-1, 2), y)


# Silent success.


@fault(SILENT, "trivial_target loss_task_mismatch", DIFFUSION)
def the_noisy_point_is_the_target(p: Program) -> None:
    p.collate = lambda _, x, __: (x, x[:, :2])


@fault(SILENT, "trivial_target", CLICKS)
def time_on_the_page_after_the_click(p: Program) -> None:
    # The log that is joined to the views is written after the click.
    p.collate = lambda _, x, y: (torch.cat((x[:, :4], 4 * y - 2, x[:, NUMBERS:]), 1), y)


@fault(SILENT, "trivial_target constant_or_duplicate_input no_signal", SIAMESE)
def the_same_image_twice_in_a_triplet(p: Program) -> None:
    p.collate = lambda _, x, y: (x[:, [0, 0, 2]], y)


class ZeroForInfinity(SequenceLoss):
    """Strips with fewer frames than symbols have a loss of 0."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        scores = self.scores(output).transpose(0, 1)
        frames = torch.full((len(target),), len(scores), dtype=torch.long)
        lengths = self.lengths(target)
        return F.ctc_loss(scores, target, frames, lengths, zero_infinity=True)


def few_frames(p: Program) -> Places:
    """Use so large a stride that a strip has fewer frames than most texts have symbols."""
    old = p.model.conv1
    p.model.conv1 = nn.Conv1d(old.in_channels, old.out_channels, 3, stride=20, padding=1)
    return ("conv1*", *around("head"), "")


@fault(SILENT, "no_supervision no_signal no_gradient no_learning", STRIPS)
def infinite_losses_replaced_by_zero(p: Program) -> Places:
    p.loss = ZeroForInfinity()
    return few_frames(p)


# Numeric.


@fault(NUMERIC, "non_finite_value", STRIPS)
def fewer_frames_than_symbols(p: Program) -> Places:
    return few_frames(p)


class NotPositive(GaussianLoss):
    """The output is the variance itself, which nothing keeps above 0."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        mean, variance = output[:, :1], output[:, 1:]
        return (variance.log() + (target - mean) ** 2 / variance).mean() / 2


@fault(NUMERIC, "non_finite_value output_range_mismatch", WIND)
def logarithm_of_a_negative_variance(p: Program) -> Places:
    p.loss = NotPositive()
    return head_of(p)


class TinyFloor(GaussianLoss):
    """The variance is a ReLU plus 1e-30."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        mean, variance = output[:, :1], output[:, 1:].relu() + 1e-30
        return (variance.log() + (target - mean) ** 2 / variance).mean() / 2


@fault(
    NUMERIC,
    "non_finite_value exploding_gradient initial_loss_anomaly dead_relu loss_spike",
    WIND,
)
def a_variance_of_1e_30(p: Program) -> Places:
    p.loss = TinyFloor()
    return head_of(p)


@fault(NUMERIC, "non_finite_value", SIAMESE)
def square_root_of_a_distance_of_zero(p: Program) -> Places:
    # All distances of a batch are computed, also that of each embedding to itself.
    def loss(output: Tensor, _: Tensor) -> Tensor:
        first, same, other = output.unbind(1)
        near = ((first - same) ** 2).sum(1).sqrt()
        far = ((first - other) ** 2).sum(1).sqrt()
        own = ((first[:, None] - first) ** 2).sum(2).sqrt()
        return (near - far + 0.5).relu().mean() + 1e-3 * own.mean()

    p.loss = loss
    return head_of(p)


@fault(NUMERIC, "non_finite_value", CLICKS)
def logarithm_of_a_probability_of_zero(p: Program) -> Places:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        probability = torch.sigmoid(40 * output)
        return -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()

    p.loss = loss
    return head_of(p)


def small_batches(p: Program) -> None:
    """Batches of 12 points, of which some have no point of the border."""
    p.batch_size = 12


class EmptyMean(PhysicsLoss):
    """The mean over the points of the border is 0 / 0 when there are none."""

    def border(self, output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        error = output[:, :1] - target[:, :1]
        return 10 * (weight * error**2).sum() / weight.sum()


@fault(NUMERIC, "non_finite_value no_supervision", PLATE, given=small_batches)
def mean_of_an_empty_border(p: Program) -> Places:
    p.loss = EmptyMean()
    return (*around("border"), "")


@fault(NUMERIC, "non_finite_input non_finite_value", f"{CLICKS} {DETECTOR}")
def missing_values_left_as_nan(p: Program) -> Places:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        missing = torch.rand(x.shape) < 1e-3
        if x.ndim == 2:
            missing[:, NUMBERS:] = False
        return x.masked_fill(missing, math.nan), y

    p.collate = collate
    return ("", "linear*", "deep*", "backbone*")
