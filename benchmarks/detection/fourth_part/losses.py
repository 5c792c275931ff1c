"""Losses of the programs of the fourth part that do not fit the output, the targets or the task."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detection.case import Class, Places
from detection.faults.loss import head_of
from detection.faults.pairing import NOT_LEARNABLE
from detection.faults.register import fault
from detection.fourth_part.mapping import (
    CLICKS,
    DETECTOR,
    DIFFUSION,
    PLATE,
    SIAMESE,
    STRIPS,
    WIND,
)
from detection.fourth_part.programs import DetectionLoss, PhysicsLoss, SequenceLoss, TripletLoss
from detection.program import Program, around

LOSS, SILENT = Class.LOSS, Class.SILENT


# Regression.


@fault(LOSS, "loss_task_mismatch no_learning trivial_target loss_plateau", DIFFUSION)
def error_averaged_before_the_square(p: Program) -> Places:
    p.loss = lambda output, target: ((output - target).mean(0) ** 2).mean()
    return head_of(p)


@fault(LOSS, "loss_divergence loss_task_mismatch exploding_gradient bias_drift", f"{DIFFUSION}")
def error_without_a_square(p: Program) -> Places:
    p.loss = lambda output, target: (output - target).mean()
    return head_of(p)


@fault(LOSS, "loss_task_mismatch", WIND)
def squared_error_of_the_mean_and_the_variance(p: Program) -> Places:
    # (samples, 2) against (samples, 1): the output of the variance learns the mean, too.
    p.loss = lambda output, target: ((output - target) ** 2).mean()
    return head_of(p)


@fault(LOSS, "loss_divergence loss_task_mismatch bias_drift exploding_gradient", WIND)
def sign_of_the_logarithm_of_the_variance(p: Program) -> Places:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        mean, logarithm = output[:, :1], output[:, 1:]
        return ((target - mean) ** 2 * (-logarithm).exp() - logarithm).mean() / 2

    p.loss = loss
    return head_of(p)


@fault(LOSS, "loss_task_mismatch no_learning loss_plateau", WIND)
def targets_without_their_last_dimension(p: Program) -> Places:
    # (samples, 1) against (samples,): every mean is compared with every target.
    inner = p.loss

    def loss(output: Tensor, target: Tensor) -> Tensor:
        pairs = output.repeat_interleave(len(target), 0)
        return inner(pairs, target.repeat(len(target), 1))

    p.loss = loss
    return head_of(p)


# Triplets.


class Exchanged(TripletLoss):
    """The arguments of the same and the other glyph are exchanged."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(output[:, [0, 2, 1]], target)


@fault(LOSS, f"loss_task_mismatch {NOT_LEARNABLE}", SIAMESE)
def same_and_other_exchanged(p: Program) -> Places:
    p.loss = Exchanged(margin=0.5)
    return head_of(p)


@fault(LOSS, "trivial_target loss_task_mismatch init_scale_too_small", SIAMESE)
def only_the_distance_of_equal_glyphs(p: Program) -> Places:
    p.loss = lambda output, _: (output[:, 0] - output[:, 1]).norm(dim=1).mean()
    return head_of(p)


@fault(SILENT, "no_signal no_gradient no_learning loss_term_inactive trivial_target", SIAMESE)
def a_margin_with_the_wrong_sign(p: Program) -> None:
    # Almost every triplet keeps a margin of −1.5 from the start.
    def loss(output: Tensor, _: Tensor) -> Tensor:
        first, same, other = output.unbind(1)
        near, far = ((first - each).norm(dim=1) for each in (same, other))
        return (near - far - 1.5).relu().mean()

    p.loss = loss


# Boxes.


class Overlap(DetectionLoss):
    """The box term is 1 minus the overlap, which is constant for boxes that do not touch."""

    def box(self, box: Tensor, target: Tensor) -> Tensor:
        low = torch.maximum(box[:, :2] - box[:, 2:] / 2, target[:, :2] - target[:, 2:] / 2)
        high = torch.minimum(box[:, :2] + box[:, 2:] / 2, target[:, :2] + target[:, 2:] / 2)
        shared = (high - low).clamp_min(0).prod(1)
        area = box[:, 2:].clamp_min(0).prod(1) + target[:, 2:].prod(1)
        return 1 - (shared / (area - shared)).mean()


@fault(SILENT, "loss_term_inactive no_signal no_gradient parameter_not_updated", DETECTOR)
def overlap_of_boxes_that_do_not_touch(p: Program) -> Places:
    with torch.no_grad():
        p.model.boxes.bias.copy_(torch.tensor([0.5, 0.5, -0.5, -0.5]))
    p.loss = Overlap()
    return (*around("boxes"), *around("box"), "")


class MatchedBoxes(DetectionLoss):
    """Only boxes that a matching accepts have a term; its limit accepts none."""

    def box(self, box: Tensor, target: Tensor) -> Tensor:
        matched = ((box - target).abs().amax(1) < 0.0).float()
        return (F.smooth_l1_loss(box, target, reduction="none").mean(1) * matched).sum()


@fault(SILENT, "loss_term_inactive no_supervision no_gradient no_signal", DETECTOR)
def no_box_matches_its_target(p: Program) -> Places:
    p.loss = MatchedBoxes()
    return (*around("boxes"), *around("box"), "")


class HardKinds(DetectionLoss):
    """The class term compares the number of the largest logit, which has no gradient."""

    def kind(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(logits.argmax(1).float(), target.float())


@fault(SILENT, "loss_term_inactive no_gradient parameter_not_updated loss_task_mismatch", DETECTOR)
def class_compared_after_the_argmax(p: Program) -> Places:
    p.loss = HardKinds()
    return (*around("classes"), *around("kind"), "")


# Sequences.


class RawScores(SequenceLoss):
    """The logits are used as if they were logarithms of probabilities."""

    def scores(self, output: Tensor) -> Tensor:
        return output


class ScoresOfTheBatch(SequenceLoss):
    """The probabilities of a symbol sum to 1 over the frames."""

    def scores(self, output: Tensor) -> Tensor:
        return output.log_softmax(1)


class Probabilities(SequenceLoss):
    """Probabilities where logarithms are wanted."""

    def scores(self, output: Tensor) -> Tensor:
        return output.softmax(2)


class Reshaped(SequenceLoss):
    """The frames come first by a reshape instead of a transpose."""

    def scores(self, output: Tensor) -> Tensor:
        samples, frames, symbols = output.shape
        mixed = super().scores(output).reshape(frames, samples, symbols)
        return mixed.transpose(0, 1)


@fault(LOSS, "loss_divergence loss_task_mismatch output_range_mismatch exploding_gradient", STRIPS)
def logits_for_logarithms_of_probabilities(p: Program) -> Places:
    p.loss = RawScores()
    return head_of(p)


@fault(LOSS, "loss_task_mismatch softmax_before_cross_entropy output_range_mismatch", STRIPS)
def probabilities_for_their_logarithms(p: Program) -> Places:
    p.loss = Probabilities()
    return head_of(p)


@fault(LOSS, "loss_task_mismatch softmax_before_cross_entropy output_range_mismatch", STRIPS)
def softmax_over_the_frames(p: Program) -> Places:
    p.loss = ScoresOfTheBatch()
    return head_of(p)


@fault(LOSS, f"loss_task_mismatch {NOT_LEARNABLE}", STRIPS)
def frames_and_strips_reshaped(p: Program) -> Places:
    p.loss = Reshaped()
    return head_of(p)


# Clicks.


@fault(
    SILENT,
    "softmax_before_cross_entropy no_signal no_gradient output_range_mismatch loss_task_mismatch "
    "no_learning",
    CLICKS,
)
def softmax_over_a_single_output(p: Program) -> Places:
    # It is always 1.
    p.loss = lambda output, target: F.binary_cross_entropy(output.softmax(1), target)
    return head_of(p)


@fault(LOSS, "class_collapse loss_task_mismatch trivial_target no_supervision", CLICKS)
def loss_of_the_clicks_alone(p: Program) -> Places:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return -(target * F.logsigmoid(output)).sum() / target.sum().clamp_min(1)

    p.loss = loss
    return head_of(p)


@fault(LOSS, "output_range_mismatch dead_relu loss_plateau", CLICKS)
def logits_of_clicks_clamped_to_zero_and_one(p: Program) -> Places:
    inner = p.loss
    p.loss = lambda output, target: inner(output.clamp(0, 1), target)
    return head_of(p)


# The equation.


class NoBorder(PhysicsLoss):
    """The weight of the border is an integer division, 0."""

    def border(self, output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return 0 * super().border(output, target, weight)


@fault(SILENT, "loss_term_inactive loss_task_mismatch", PLATE)
def the_border_has_weight_zero(p: Program) -> Places:
    p.loss = NoBorder()
    return (*around("border"), "")


class DetachedEquation(PhysicsLoss):
    """The second derivatives are computed without a graph."""

    def inside(self, output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return super().inside(output.detach(), target, weight)


@fault(SILENT, "loss_term_inactive no_gradient", PLATE)
def second_derivatives_without_a_graph(p: Program) -> Places:
    p.loss = DetachedEquation()
    return (*around("inside"), "")
