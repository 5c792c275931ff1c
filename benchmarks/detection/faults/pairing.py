"""Pairing: inputs, targets, outputs and terms of the loss that do not belong together.

Errors that users report of sequences, masks, tables, variational and actor-critic losses. These are
put into programs of the second part alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.case import Class, Places
from detection.faults.loss import head_of
from detection.faults.register import fault
from detection.program import Program, around
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
from detection.second_part.samples import IGNORED, UNKNOWN

LOSS, DATA, SILENT = Class.LOSS, Class.DATA, Class.SILENT
NOT_LEARNABLE = "label_noise no_learning loss_plateau"


# The output and the loss.


@fault(
    LOSS,
    "softmax_before_cross_entropy loss_task_mismatch output_range_mismatch",
    f"{TAGGER} {TRANSLATOR}",
)
def log_softmax_over_the_sequence(p: Program) -> Places:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(F.log_softmax(output, 1).flatten(0, 1), target.flatten())

    p.loss = loss
    return head_of(p)


@fault(LOSS, f"loss_task_mismatch {NOT_LEARNABLE}", f"{TAGGER} {TRANSLATOR}")
def logits_viewed_instead_of_transposed(p: Program) -> Places:
    # Cross-entropy wants (samples, classes, length): view gives the shape, transpose the meaning.
    def loss(output: Tensor, target: Tensor) -> Tensor:
        samples, length, classes = output.shape
        return F.cross_entropy(output.reshape(samples, classes, length), target)

    p.loss = loss
    return head_of(p)


@fault(
    LOSS,
    "softmax_before_cross_entropy loss_task_mismatch output_range_mismatch "
    "no_learning loss_plateau",
    TABLE,
)
def sigmoid_before_the_loss_with_logits(p: Program) -> Places:
    p.loss = lambda output, target: F.binary_cross_entropy_with_logits(output.sigmoid(), target)
    return head_of(p)


@fault(LOSS, "output_range_mismatch dead_relu", f"{TABLE} {VGG}")
def relu_on_the_logits(p: Program) -> Places:
    inner = p.loss
    p.loss = lambda output, target: inner(output.relu(), target)
    return head_of(p)


@fault(LOSS, "class_collapse class_imbalance loss_task_mismatch", TABLE)
def positive_class_weighted_times_10000(p: Program) -> Places:
    p.loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(10_000.0))
    return head_of(p)


@fault(LOSS, "loss_task_mismatch class_collapse class_imbalance no_supervision", TAGGER)
def padding_counted_as_a_tag(p: Program) -> Places:
    # 50 more columns of padding, as with max_length = 68; their tag is 0 and not ignored.
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = F.pad(x, (0, 50)), F.pad(y, (0, 50))
        return x, y.masked_fill(y == IGNORED, 0)

    p.collate = collate
    return head_of(p)


class AveragedReconstruction(ELBO):
    """The reconstruction is a mean over pixels, and the divergence stays a sum."""

    def pixels(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target)


@fault(LOSS, "no_learning loss_plateau loss_task_mismatch over_regularised", VAE)
def reconstruction_averaged_and_divergence_summed(p: Program) -> None:
    p.loss = AveragedReconstruction()


class NegativeDivergence(ELBO):
    """The divergence has the wrong sign, so that the loss has no lower bound."""

    def divergence(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        return -super().divergence(mean, log_variance)


@fault(LOSS, "loss_divergence loss_task_mismatch non_finite_value exploding_gradient", VAE)
def divergence_with_the_wrong_sign(p: Program) -> None:
    p.loss = NegativeDivergence()


class SigmoidTwice(ELBO):
    """The decoder's output passes a sigmoid before the loss that has one."""

    def pixels(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().pixels(logits.sigmoid(), target)


@fault(LOSS, "loss_task_mismatch output_range_mismatch loss_plateau", VAE)
def sigmoid_applied_twice(p: Program) -> Places:
    p.loss = SigmoidTwice()
    return head_of(p)


class BroadcastAdvantage(ActorCriticLoss):
    """The value keeps its column: (B,) − (B, 1) is (B, B)."""

    def advantage(self, reward: Tensor, value: Tensor) -> Tensor:
        return reward - value.detach()[:, None]

    def log_probability(self, policy: Any, action: Tensor) -> Tensor:
        return super().log_probability(policy, action)[:, None]


@fault(LOSS, f"loss_task_mismatch {NOT_LEARNABLE} no_signal", ACTOR)
def advantage_of_a_column_and_a_row(p: Program) -> None:
    p.loss = BroadcastAdvantage()


class DetachedPolicy(ActorCriticLoss):
    """The log probabilities were stored during the roll-out, without a graph."""

    entropy_weight = 0.0

    def log_probability(self, policy: Any, action: Tensor) -> Tensor:
        return super().log_probability(policy, action).detach()


@fault(SILENT, "no_gradient loss_term_inactive parameter_not_updated", ACTOR)
def log_probabilities_without_a_graph(p: Program) -> Places:
    p.loss = DetachedPolicy()
    return (*around("policy"), "")


class EqualRewards(ActorCriticLoss):
    """Every action has the same reward."""

    def reward(self, action: Tensor, best: Tensor) -> Tensor:  # noqa: ARG002
        return torch.ones(len(best))


@fault(SILENT, "no_signal no_learning loss_term_inactive trivial_target", ACTOR)
def equal_rewards_for_a_critic(p: Program) -> None:
    p.loss = EqualRewards()


# Inputs and targets.


@fault(DATA, NOT_LEARNABLE, BLOBS)
def images_flipped_without_their_masks(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        flipped = torch.rand(len(x), 1, 1, 1) < 0.5
        return torch.where(flipped, x.flip(3), x), y

    p.collate = collate


@fault(
    DATA,
    "class_collapse class_imbalance no_supervision constant_or_duplicate_input trivial_target",
    BLOBS,
)
def masks_divided_by_255(p: Program) -> None:
    # An image transform on the masks: 1 / 255 and 2 / 255 are 0 as integers.
    p.with_targets(lambda y: (y / 255).long(), test=False)


@fault(DATA, "label_noise no_learning loss_plateau", f"{VGG} {SIGNAL}")
def only_the_labels_shuffled_each_epoch(p: Program) -> None:
    p.collate = lambda _, x, y: (x, y[torch.randperm(len(y))])


@fault(
    DATA,
    "constant_or_duplicate_input no_learning loss_plateau label_noise",
    f"{ENCODER} {TRANSLATOR}",
)
def every_token_unknown(p: Program) -> None:
    # The vocabulary has other spellings: every word is looked up as unknown.
    p.with_inputs(lambda x: torch.full_like(x, UNKNOWN))


@fault(DATA, "unnormalised_input", VGG)
def images_from_0_to_255(p: Program) -> None:
    p.with_inputs(lambda x: (128 + 48 * x).clamp(0, 255).round())


@fault(DATA, "loss_plateau no_learning label_noise unnormalised_input", SELU)
def each_sample_divided_by_its_norm(p: Program) -> None:
    def normalise(x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        return x / (x**2).mean(1, keepdim=True).sqrt().clamp_min(1e-6)

    p.with_inputs(normalise)


@fault(DATA, "unnormalised_input", TABLE)
def unix_time_among_the_numbers(p: Program) -> None:
    def add(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 2] = 1.7e9 + 3e7 * x[:, 2]
        return x

    p.with_inputs(add)


@fault(SILENT, "trivial_target", TABLE)
def column_written_after_the_purchase(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone()
        x[:, 4] = 4 * y - 2
        return x, y

    p.collate = collate


@fault(SILENT, "trivial_target", TRANSLATOR)
def decoder_inputs_not_shifted(p: Program) -> None:
    p.collate = lambda _, x, y: (torch.cat((x[:, : y.shape[1]], y), 1), y)


@fault(DATA, "trivial_target label_noise loss_task_mismatch", TRANSLATOR)
def decoder_inputs_shifted_the_wrong_way(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat((x[:, : y.shape[1]], y[:, 1:], y[:, :1]), 1), y

    p.collate = collate
