"""Losses of the third part that do not fit the output, the targets or the task."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.case import Class, Places
from detection.faults.loss import head_of
from detection.faults.pairing import NOT_LEARNABLE
from detection.faults.register import fault
from detection.faults.wiring import NOT_TRAINED
from detection.program import Program
from detection.third_part.mapping import COUNTER, GRID, SCENES, TOWERS, UNET, WAVENET
from detection.third_part.programs import PinballLoss, TemporalDifference, TwoTaskLoss

LOSS, DATA, SILENT = Class.LOSS, Class.DATA, Class.SILENT


# The output and the loss.


@fault(LOSS, "non_finite_value loss_task_mismatch output_range_mismatch loss_divergence", COUNTER)
def log_rate_read_as_a_rate(p: Program) -> Places:
    p.loss = nn.PoissonNLLLoss(log_input=False)
    return head_of(p)


@fault(LOSS, "loss_task_mismatch", COUNTER)
def squared_error_on_a_log_rate(p: Program) -> Places:
    p.loss = nn.MSELoss()
    return head_of(p)


@fault(LOSS, "loss_task_mismatch exploding_gradient initial_loss_anomaly", COUNTER)
def rate_exponentiated_twice(p: Program) -> Places:
    p.loss = lambda output, target: F.poisson_nll_loss(output.exp(), target)
    return head_of(p)


class ReversedError(PinballLoss):
    """The error has the wrong sign: the output of the quantile 0.1 learns 0.9."""

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        return output - target


@fault(LOSS, "loss_task_mismatch", WAVENET)
def quantile_error_with_the_wrong_sign(p: Program) -> Places:
    p.loss = ReversedError()
    return head_of(p)


class SignedError(PinballLoss):
    """The terms of the quantiles are added instead of the larger one: the loss has no bound."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        error = self.error(output, target)
        return (self.quantiles * error).mean()


@fault(LOSS, "loss_divergence loss_task_mismatch bias_drift exploding_gradient", WAVENET)
def quantile_loss_without_its_second_branch(p: Program) -> Places:
    p.loss = SignedError()
    return head_of(p)


@fault(LOSS, "output_range_mismatch dead_relu loss_plateau", UNET)
def output_clamped_to_zero_and_one(p: Program) -> Places:
    p.forward = lambda model, x: model(x).clamp(0, 1)
    return head_of(p)


@fault(LOSS, "loss_task_mismatch", UNET)
def network_learns_the_noise(p: Program) -> None:
    # The targets are those of a network whose output is subtracted; here it is the image.
    p.collate = lambda _, x, y: (x, x - y)


@fault(
    LOSS,
    f"loss_task_mismatch {NOT_LEARNABLE} init_scale_too_small output_range_mismatch",
    f"{TOWERS}",
)
def temperature_multiplied_and_not_divided(p: Program) -> Places:
    with torch.no_grad():
        p.model.log_scale.fill_(math.log(0.07))
    p.model.log_scale.requires_grad_(False)
    return ("", "log_scale")


@fault(LOSS, f"loss_task_mismatch class_collapse {NOT_LEARNABLE}", TOWERS)
def every_query_has_the_first_item(p: Program) -> None:
    # Zeros instead of torch.arange(len(similarity)).
    p.loss = lambda similarity, _: F.cross_entropy(
        similarity, torch.zeros(len(similarity), dtype=torch.long)
    )


@fault(LOSS, "loss_task_mismatch class_collapse trivial_target loss_divergence", TOWERS)
def only_the_similarity_of_pairs(p: Program) -> None:
    p.loss = lambda similarity, _: -similarity.diagonal().mean()


class SoftmaxOverLabels(TwoTaskLoss):
    """One softmax over labels of which several are true."""

    def labels(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target)


class SummedNumber(TwoTaskLoss):
    """The term of the number is in other units and hides the one of the labels."""

    def value(self, value: Tensor, target: Tensor) -> Tensor:
        return 1e4 * super().value(value, target)


class ThresholdedLabels(TwoTaskLoss):
    """The labels are compared after the threshold, which has no gradient."""

    def labels(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss((logits > 0).float(), target)


class ProbabilitiesTwice(TwoTaskLoss):
    """A sigmoid in front of the loss that has one."""

    def labels(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().labels(logits.sigmoid(), target)


class BroadcastNumber(TwoTaskLoss):
    """(B,) against (B, 1): every number is compared with every target."""

    def value(self, value: Tensor, target: Tensor) -> Tensor:
        rows, columns = torch.broadcast_tensors(value, target[:, None])
        return F.smooth_l1_loss(rows, columns)


AT_THE_LABELS: Places = ("labels", "labels.*", "")


@fault(LOSS, "loss_task_mismatch", SCENES)
def softmax_over_labels_that_are_no_classes(p: Program) -> Places:
    p.loss = SoftmaxOverLabels()
    return AT_THE_LABELS


@fault(LOSS, "loss_task_mismatch loss_term_inactive initial_loss_anomaly", SCENES)
def number_in_other_units_hides_the_labels(p: Program) -> None:
    p.loss = SummedNumber()


@fault(SILENT, f"{NOT_TRAINED} loss_term_inactive no_signal", SCENES)
def labels_compared_after_a_threshold(p: Program) -> Places:
    p.loss = ThresholdedLabels()
    return AT_THE_LABELS


@fault(
    LOSS,
    "softmax_before_cross_entropy loss_task_mismatch output_range_mismatch loss_plateau",
    SCENES,
)
def sigmoid_twice_on_the_labels(p: Program) -> Places:
    p.loss = ProbabilitiesTwice()
    return AT_THE_LABELS


@fault(LOSS, "loss_task_mismatch", SCENES)
def number_broadcast_against_a_column(p: Program) -> Places:
    p.loss = BroadcastNumber()
    return ("value", "value.*", "")


class DiscountAboveOne(TemporalDifference):
    """The discount is 1.3, so that values grow without a bound."""

    discount = 1.3


class GatheredAlongTheBatch(TemporalDifference):
    """values[:, action] is (B, B): the values of the actions of all samples."""

    def chosen(self, values: Tensor, action: Tensor) -> Tensor:
        return values[:, action]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        now, after = output.chunk(2, 1)
        action, reward, end = target[:, :3].unbind(1)
        goal = reward + self.discount * after.amax(1) * self.goes_on(end)
        chosen = self.chosen(now, action.long())
        return F.smooth_l1_loss(chosen, goal[:, None].expand_as(chosen))


class NoRewards(TemporalDifference):
    """The environment's wrapper drops the rewards."""

    def reward(self, reward: Tensor) -> Tensor:
        return torch.zeros_like(reward)


@fault(LOSS, "loss_divergence loss_task_mismatch bias_drift exploding_gradient", GRID)
def discount_above_one(p: Program) -> None:
    p.loss = DiscountAboveOne()


@fault(LOSS, f"loss_task_mismatch {NOT_LEARNABLE}", GRID)
def actions_gathered_along_the_batch(p: Program) -> Places:
    p.loss = GatheredAlongTheBatch()
    return head_of(p)


@fault(SILENT, "no_signal no_learning trivial_target constant_or_duplicate_input", GRID)
def rewards_lost_in_a_wrapper(p: Program) -> None:
    p.loss = NoRewards()
