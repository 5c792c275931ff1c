"""Losses of the unseen programs that do not fit the output, the targets or the task."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.case import Class, Places
from detection.faults.loss import head_of
from detection.faults.optimizer import HIGH
from detection.faults.register import fault
from detection.faults.wiring import NOT_TRAINED
from detection.program import Program, append, output_layer
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
    MaskedLoss,
    TweedieLoss,
)
from detection.unseen.samples import HIDDEN

LOSS, SILENT, NUMERIC = Class.LOSS, Class.SILENT, Class.NUMERIC
PROBABILITIES = "loss_task_mismatch output_range_mismatch softmax_before_cross_entropy"


# Costs.


@fault(LOSS, "loss_task_mismatch target_outliers", CLAIMS)
def squared_error_of_a_logarithm_and_a_cost(p: Program) -> Places:
    p.loss = lambda output, target: F.mse_loss(output, target)
    return head_of(p)


@fault(
    LOSS,
    "loss_task_mismatch exploding_gradient non_finite_value loss_spike initial_loss_anomaly",
    CLAIMS,
)
def exponential_taken_twice(p: Program) -> Places:
    inner = TweedieLoss()
    p.loss = lambda output, target: inner(output.exp(), target)
    return head_of(p)


@fault(LOSS, "loss_task_mismatch no_learning loss_plateau", f"{CLAIMS}")
def costs_without_their_last_dimension(p: Program) -> Places:
    # (samples, 1) against (samples,): each policy is compared with the costs of all.
    inner = TweedieLoss()
    p.loss = lambda output, target: inner(output, target[:, 0])
    return head_of(p)


@fault(NUMERIC, "non_finite_value non_finite_input", CLAIMS)
def logarithm_of_a_cost_of_zero(p: Program) -> Places:
    p.loss = lambda output, target: F.mse_loss(output, target.log())
    return head_of(p)


# Sounds.


@fault(LOSS, PROBABILITIES, CHIRPS)
def softmax_for_labels_that_do_not_exclude_each_other(p: Program) -> Places:
    p.loss = lambda output, target: F.binary_cross_entropy(output.softmax(1), target)
    return head_of(p)


@fault(LOSS, "loss_task_mismatch", CHIRPS)
def cross_entropy_of_several_labels(p: Program) -> Places:
    p.loss = lambda output, target: F.cross_entropy(output, target)
    return head_of(p)


@fault(LOSS, PROBABILITIES, CHIRPS)
def sigmoid_in_front_of_a_loss_that_has_one(p: Program) -> Places:
    inner = p.loss
    p.loss = lambda output, target: inner(output.sigmoid(), target)
    return head_of(p)


@fault(SILENT, "no_supervision class_collapse trivial_target loss_task_mismatch", CHIRPS)
def positive_weight_of_zero(p: Program) -> Places:
    # number of negatives // number of positives is an integer division of shares.
    weight = torch.zeros(5)
    p.loss = lambda output, target: F.binary_cross_entropy_with_logits(
        output, target, pos_weight=weight
    )
    return head_of(p)


@fault(SILENT, f"{NOT_TRAINED} no_signal no_learning loss_task_mismatch", CHIRPS)
def error_of_rounded_probabilities(p: Program) -> Places:
    p.loss = lambda output, target: (
        ((output.sigmoid() > 0.5).float() - target).abs().mean() + (0 * output.sum())
    )
    return head_of(p)


# Lists.


@fault(SILENT, "no_signal no_gradient no_learning loss_plateau trivial_target", QUERIES)
def hinge_whose_margin_is_already_kept(p: Program) -> Places:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        gap = output[:, :, None] - output[:, None]
        better = (target[:, :, None] > target[:, None]).float()
        return (better * (-3.0 - gap).relu()).sum() / better.sum()

    p.loss = loss
    return head_of(p)


@fault(NUMERIC, "non_finite_value", QUERIES)
def logarithm_of_a_softmax_of_large_scores(p: Program) -> Places:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return -(target.softmax(1) * (200 * output).softmax(1).log()).sum(1).mean()

    p.loss = loss
    return head_of(p)


# Patients.


class Inverted(HazardLoss):
    """The mask keeps the intervals after the event."""

    def observed(self, interval: Tensor, last: Tensor) -> Tensor:
        return 1 - super().observed(interval, last)


@fault(SILENT, "no_supervision trivial_target class_collapse loss_task_mismatch", PATIENTS)
def only_the_intervals_after_the_event(p: Program) -> Places:
    p.loss = Inverted()
    return head_of(p)


class Summed(HazardLoss):
    """The sum over the patients, at a rate for their mean."""

    def mean(self, each: Tensor, observed: Tensor) -> Tensor:
        return (each * observed).sum()


@fault(LOSS, f"loss_task_mismatch initial_loss_anomaly loss_spike {HIGH}", PATIENTS)
def sum_over_the_patients(p: Program) -> Places:
    p.loss = Summed()
    return ("*",)


@fault(LOSS, "loss_task_mismatch no_learning loss_plateau", PATIENTS)
def squared_error_of_all_intervals_averaged_first(p: Program) -> Places:
    p.loss = lambda output, target: (output.mean() - target[:, 0].mean()) ** 2
    return head_of(p)


class ByHand(HazardLoss):
    """The logarithms of the probabilities, which become 0 for large logits."""

    def each(self, output: Tensor, happened: Tensor) -> Tensor:
        hazard = (50 * output).sigmoid()
        return -(happened * hazard.log() + (1 - happened) * (1 - hazard).log())


@fault(NUMERIC, "non_finite_value saturated_activation", PATIENTS)
def logarithm_of_a_hazard_of_zero(p: Program) -> Places:
    p.loss = ByHand()
    return head_of(p)


# Points.


@fault(LOSS, "loss_task_mismatch loss_divergence bias_drift exploding_gradient", SOLIDS)
def likelihood_loss_of_raw_logits(p: Program) -> Places:
    p.loss = lambda output, target: F.nll_loss(output, target)
    return head_of(p)


@fault(LOSS, f"{NOT_TRAINED} no_signal no_learning loss_task_mismatch", SOLIDS)
def error_of_the_predicted_class(p: Program) -> Places:
    p.loss = lambda output, target: (
        F.l1_loss(output.argmax(1).float(), target.float()) + 0 * output.sum()
    )
    return head_of(p)


# Pendulums.


@fault(LOSS, "loss_task_mismatch loss_plateau no_learning", PENDULUMS)
def every_state_against_the_last_one(p: Program) -> Places:
    p.loss = lambda output, target: F.mse_loss(output, target[:, -1:].expand_as(output))
    return head_of(p)


@fault(LOSS, "loss_task_mismatch loss_divergence bias_drift exploding_gradient", PENDULUMS)
def mean_error_with_its_sign(p: Program) -> Places:
    p.loss = lambda output, target: (output - target).mean()
    return head_of(p)


# Texts.


class AllPositions(MaskedLoss):
    """Positions that are not masked have token 0 as their target."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return super().forward(output, target.masked_fill(target == HIDDEN, 0))


@fault(LOSS, "class_imbalance class_collapse loss_task_mismatch loss_plateau", RECIPES)
def padding_that_the_loss_does_not_ignore(p: Program) -> Places:
    p.loss = AllPositions()
    return head_of(p)


@fault(LOSS, "loss_task_mismatch no_learning loss_plateau label_noise", RECIPES)
def logits_viewed_with_the_tokens_in_front(p: Program) -> Places:
    # (samples, length, tokens) is viewed as (samples, tokens, length).
    p.loss = lambda output, target: F.cross_entropy(
        output.reshape(len(output), output.shape[2], -1), target, ignore_index=HIDDEN
    )
    return head_of(p)


class NoneMasked(MaskedLoss):
    """The mask is applied once more, and keeps no position."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        kept = (target == HIDDEN) & (target >= 0)
        each = F.cross_entropy(output.transpose(1, 2), target.clamp_min(0), reduction="none")
        return (each * kept).sum() / kept.sum().clamp_min(1)


@fault(SILENT, "no_supervision no_signal no_gradient no_learning", RECIPES)
def mask_and_its_complement(p: Program) -> Places:
    p.loss = NoneMasked()
    return head_of(p)


# Series.


@fault(
    LOSS,
    "target_outliers exploding_gradient loss_spike loss_task_mismatch loss_oscillation",
    SALES,
)
def percentage_error_of_values_near_zero(p: Program) -> Places:
    p.loss = lambda output, target: ((output - target) / target).abs().mean()
    return head_of(p)


@fault(LOSS, "loss_task_mismatch loss_plateau", SALES)
def error_of_the_mean_over_the_horizon(p: Program) -> Places:
    p.loss = lambda output, target: (output.mean(1) - target.mean(1)).abs().mean()
    return head_of(p)


# Images.


@fault(LOSS, "output_range_mismatch", PHOTO)
def sigmoid_for_a_standardised_image(p: Program) -> Places:
    places = head_of(p)
    append(p.model, output_layer(p.model)[0], nn.Sigmoid())
    return places


@fault(LOSS, f"loss_divergence loss_task_mismatch {HIGH}", PHOTO)
def signal_to_noise_ratio_without_its_sign(p: Program) -> Places:
    p.loss = lambda output, target: -10 * F.mse_loss(output, target).log10()
    return head_of(p)


@fault(NUMERIC, "non_finite_value", PHOTO)
def square_root_of_an_error_that_can_be_zero(p: Program) -> Places:
    # Dark pixels are cut out of both images, so that their error is exactly 0.
    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen = (target > target.min() + 0.1).float()
        return ((seen * output - seen * target) ** 2).sqrt().mean()

    p.loss = loss
    return head_of(p)
