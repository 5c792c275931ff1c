"""Inputs, targets and numbers of the unseen programs that are wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from detection.case import Class, Places
from detection.faults.pairing import NOT_LEARNABLE
from detection.faults.register import fault
from detection.program import Program
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
)
from detection.unseen.samples import HIDDEN, INTERVALS

DATA, NUMERIC, SILENT = Class.DATA, Class.NUMERIC, Class.SILENT
UNITS = "unnormalised_input target_not_scaled initial_loss_anomaly"
AT_THE_INPUT: Places = ("", "*first*", "*conv1*", "*fc1*", "embed*", "cnn*", "blocks*", "field*")


# Inputs and targets.


@fault(DATA, "unnormalised_input", f"{CLAIMS} {PATIENTS}")
def missing_values_coded_as_minus_9999(p: Program) -> Places:
    def code(x: Tensor) -> Tensor:
        return x.masked_fill(torch.rand(x.shape) < 0.05, -9999.0)

    p.with_inputs(code)
    return AT_THE_INPUT


@fault(DATA, "unnormalised_input", f"{QUERIES} {PATIENTS}")
def a_column_with_the_number_of_the_row(p: Program) -> Places:
    # The index of the table is written to the file and read as a feature.
    def add(x: Tensor) -> Tensor:
        rows = torch.randint(100_000, x.shape[:-1]).float()
        return torch.cat((x[..., :-1], rows[..., None]), -1)

    p.with_inputs(add)
    return AT_THE_INPUT


@fault(DATA, UNITS, PENDULUMS)
def angles_in_degrees(p: Program) -> Places:
    p.with_inputs(lambda x: x * 57.3)
    p.with_targets(lambda y: y * 57.3)
    return AT_THE_INPUT


@fault(DATA, "unnormalised_input", CHIRPS)
def powers_instead_of_decibels(p: Program) -> Places:
    p.with_inputs(lambda x: 10 ** (2 * x))
    return AT_THE_INPUT


@fault(DATA, NOT_LEARNABLE, f"{QUERIES} {CHIRPS}")
def table_sorted_after_the_targets_were_taken(p: Program) -> None:
    order = p.data.x.flatten(1)[:, 0].argsort()
    p.data = replace(p.data, x=p.data.x[order])


@fault(DATA, NOT_LEARNABLE, PHOTO)
def small_image_flipped_without_the_large_one(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        flipped = torch.rand(len(x), 1, 1, 1) < 0.5
        return torch.where(flipped, x.flip(3), x), y

    p.collate = collate


@fault(DATA, NOT_LEARNABLE, SALES)
def past_and_future_of_different_series(p: Program) -> None:
    # The futures are shifted by one row, because the header is read as a row of the pasts.
    p.data = replace(p.data, y=p.data.y.roll(1, 0))


@fault(DATA, NOT_LEARNABLE, RECIPES)
def tokens_of_a_text_in_the_order_of_a_set(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.rand(x.shape).argsort(1)
        return x.gather(1, order), y.gather(1, order)

    p.collate = collate


@fault(
    DATA,
    "constant_or_duplicate_input overfitting",
    f"{RECIPES} {SOLIDS}",
)
def iterator_created_again_with_the_same_seed(p: Program) -> None:
    p.sample = lambda p, _, __: torch.arange(p.batch_size)


@fault(
    DATA,
    "loss_oscillation class_collapse loss_spike constant_or_duplicate_input bias_drift",
    SOLIDS,
)
def files_read_folder_by_folder(p: Program) -> None:
    def sample(p: Program, step: int, generator: torch.Generator) -> Tensor:
        rows = (p.data.y == step // 20 % 5).nonzero()[:, 0]
        return rows[torch.randint(len(rows), (p.batch_size,), generator=generator)]

    p.sample = sample


@fault(DATA, "constant_or_duplicate_input no_learning loss_plateau no_gradient", SOLIDS)
def byte_buffer_read_as_zeros(p: Program) -> Places:
    # The file is read twice, and the second time its end is reached.
    p.collate = lambda _, x, y: (torch.zeros_like(x), y)
    return AT_THE_INPUT


@fault(DATA, "label_noise", SOLIDS)
def half_of_the_labels_of_another_annotator(p: Program) -> None:
    wrong = torch.rand(len(p.data.y)) < 0.6
    p.data = replace(p.data, y=torch.where(wrong, torch.randint(5, wrong.shape), p.data.y))


@fault(DATA, "constant_or_duplicate_input loss_plateau no_learning", PENDULUMS)
def speed_never_recorded(p: Program) -> Places:
    p.with_inputs(lambda x: x * torch.tensor([1.0, 0.0]))
    return AT_THE_INPUT


@fault(DATA, "target_outliers loss_spike exploding_gradient", f"{CLAIMS} {PENDULUMS}")
def some_targets_in_another_currency_or_unit(p: Program) -> None:
    rows = torch.rand(len(p.data.y)) < 0.02
    y = p.data.y.clone()
    y[rows] *= 1000
    p.data = replace(p.data, y=y)


# Silent success.


@fault(SILENT, "trivial_target", RECIPES)
def words_under_the_mask_left_in_the_text(p: Program) -> None:
    p.collate = lambda _, x, y: (torch.where(y == HIDDEN, x, y), y)


@fault(SILENT, "trivial_target", SALES)
def future_taken_from_the_end_of_the_past(p: Program) -> None:
    p.collate = lambda _, x, __: (x, x[:, -6:])


@fault(SILENT, "trivial_target", CLAIMS)
def cost_among_the_features(p: Program) -> None:
    p.collate = lambda _, x, y: (torch.cat((x[:, :-1], y), 1), y)


@fault(SILENT, "trivial_target", f"{SOLIDS}")
def class_number_written_into_the_points(p: Program) -> None:
    # A fourth column of the file is the class; it is read as the height.
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        height = y[:, None, None].float().expand(-1, x.shape[1], 1) / 2 - 1
        return torch.cat((x[:, :, :2], height), 2), y

    p.collate = collate


@fault(
    SILENT,
    "no_supervision no_signal trivial_target class_collapse no_learning loss_plateau",
    QUERIES,
)
def grades_joined_by_a_key_that_never_matches(p: Program) -> None:
    p.with_targets(torch.zeros_like, test=False)


@fault(
    SILENT, "trivial_target class_collapse class_imbalance constant_or_duplicate_input", PATIENTS
)
def days_cut_at_the_last_month(p: Program) -> None:
    # Times in days are used as the number of a month, so that all are in the last one.
    def cut(y: Tensor) -> Tensor:
        return torch.stack(((30 * y[:, 0] + 15).clamp_max(INTERVALS - 1), y[:, 1]), 1)

    p.with_targets(cut, test=False)


# Numeric.


@fault(NUMERIC, "non_finite_input non_finite_value", f"{SALES} {CHIRPS}")
def logarithm_of_readings_that_can_be_negative(p: Program) -> Places:
    p.with_inputs(lambda x: (x + 2.5).log())
    return AT_THE_INPUT


@fault(NUMERIC, "non_finite_input non_finite_value", PHOTO)
def patches_divided_by_a_deviation_of_zero(p: Program) -> Places:
    # A black patch has the deviation 0.
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        black = torch.rand(len(x), 1, 1, 1) < 0.02
        x = x.masked_fill(black, 0.0)
        return x / x.std((2, 3), keepdim=True), y

    p.collate = collate
    return AT_THE_INPUT


@fault(NUMERIC, "non_finite_input non_finite_value", SOLIDS)
def empty_cloud_scaled_to_length_one(p: Program) -> Places:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x * (torch.rand(len(x), 1, 1) > 0.01)
        return x / x.norm(dim=2).amax(1)[:, None, None], y

    p.collate = collate
    return AT_THE_INPUT


@fault(NUMERIC, "non_finite_input non_finite_value", f"{PENDULUMS} {QUERIES}", onset=70)
def sensor_fails_at_step_70(p: Program) -> Places:
    def collate(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x, y.masked_fill(torch.rand(y.shape) < 0.01, math.nan)) if step >= 70 else (x, y)

    p.collate = collate
    return AT_THE_INPUT


@fault(NUMERIC, "non_finite_value", RECIPES)
def attention_to_no_token_at_all(p: Program) -> Places:
    # A text of length 0 hides all its keys: the softmax of a row of −∞.
    for layer in p.model.layers:
        layer.attend = without_keys
    return ("layers*", "")


def without_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend, with all keys of a hundredth of the texts hidden."""
    scores = q @ k.transpose(-2, -1) / k.shape[-1] ** 0.5
    hidden = torch.rand(len(q), 1, 1, 1) < 0.01
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
