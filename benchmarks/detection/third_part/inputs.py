"""Inputs, targets, masks and numbers of the third part that are wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from detection.case import Class, Places
from detection.faults.pairing import NOT_LEARNABLE
from detection.faults.register import fault
from detection.faults.wiring import NOT_TRAINED
from detection.program import Program
from detection.third_part.mapping import (
    COUNTER,
    DECODER,
    GRAPH,
    GRID,
    MIXER,
    SCENES,
    TOWERS,
    UNET,
    WAVENET,
)
from detection.third_part.programs import TwoTaskLoss
from detection.third_part.samples import IGNORED

DATA, NUMERIC, SILENT = Class.DATA, Class.NUMERIC, Class.SILENT


# Inputs and targets.


@fault(DATA, NOT_LEARNABLE, TOWERS)
def items_in_another_order_than_queries(p: Program) -> None:
    p.collate = lambda _, x, y: (torch.cat((x[:, :16], x[:, 16:].roll(1, 0)), 1), y)


@fault(DATA, NOT_LEARNABLE, GRAPH)
def features_of_the_next_graph(p: Program) -> None:
    # The offset of the nodes in a batch is wrong.
    p.collate = lambda _, x, y: (torch.cat((x[..., :20], x[..., 20:].roll(1, 0)), 2), y)


@fault(DATA, f"unnormalised_input {NOT_LEARNABLE}", f"{COUNTER} {MIXER}")
def bytes_that_wrap_around(p: Program) -> None:
    # Standardised pixels times 255 as uint8: values beyond the range start again at 0.
    p.with_inputs(lambda x: (255 * x).long().remainder(256).float() / 255)


@fault(
    DATA,
    "unnormalised_input constant_or_duplicate_input init_scale_too_small no_learning",
    f"{WAVENET} {MIXER} {TOWERS}",
)
def divided_by_255_twice(p: Program) -> None:
    # The pixels are divided by 255 twice, and then by the mean and deviation of single division.
    p.with_inputs(lambda x: ((128 + 40 * x) / 255**2 - 0.5) / 0.25)


@fault(
    DATA,
    "constant_or_duplicate_input gradient_noise_dominates loss_oscillation",
    f"{SCENES} {MIXER}",
)
def batch_of_one_sample_repeated(p: Program) -> None:
    p.sample = lambda p, _, g: torch.randint(len(p.data.x), (1,), generator=g).expand(p.batch_size)


@fault(DATA, "unnormalised_input target_outliers loss_spike", f"{SCENES} {TOWERS}")
def missing_values_coded_as_minus_9999(p: Program) -> None:
    def missing(x: Tensor) -> Tensor:
        return x.masked_fill(torch.rand(x.shape) < 0.03, -9999.0)

    p.with_inputs(missing)


@fault(DATA, "class_imbalance class_collapse constant_or_duplicate_input", GRID)
def memory_of_one_action(p: Program) -> None:
    # The exploration was off: nearly all stored moves have action 0.
    first = p.data.y[:, 0] == 0
    first[::40] = True
    rows = first.nonzero()[:, 0]
    p.sample = lambda _, __, g: rows[torch.randint(len(rows), (64,), generator=g)]


def validated(p: Program) -> None:
    """Log a validation loss, as the twin."""
    p.validate_every = 10


@fault(DATA, "overfitting label_noise loss_task_mismatch", MIXER, given=validated)
def classes_numbered_in_another_order_than_in_the_test(p: Program) -> None:
    p.with_targets(lambda y: (y + 1) % 4, test=False)


@fault(DATA, "target_not_scaled bias_drift initial_loss_anomaly", f"{SCENES} {UNET}")
def prices_in_cents(p: Program) -> None:
    def cents(y: Tensor) -> Tensor:
        return torch.cat((y[:, :-1], 40_000 + 9_000 * y[:, -1:]), 1) if y.ndim == 2 else 9000 * y

    p.with_targets(cents)


@fault(DATA, f"{NOT_LEARNABLE} constant_or_duplicate_input", f"{COUNTER} {UNET} {DECODER}")
def targets_of_the_batch_before(p: Program) -> None:
    # An asynchronous loader returns the targets of the batch before.
    kept: list[Tensor] = []

    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        kept.append(y)
        return x, kept.pop(0) if len(kept) > 1 else y

    p.collate = collate


# Numeric.


@fault(NUMERIC, "non_finite_input non_finite_value", f"{TOWERS} {SCENES}")
def empty_rows_divided_by_their_norm(p: Program) -> Places:
    def normalise(x: Tensor) -> Tensor:
        x = x.masked_fill(torch.rand(len(x), 1) < 0.01, 0.0)
        return x / x.norm(dim=1, keepdim=True) * x.shape[1] ** 0.5

    p.with_inputs(normalise)
    return ("", "*fc0*", "input*", "query*", "item*")


def some_isolated_nodes(p: Program) -> None:
    """Remove every edge of the last node, as in the twin, where a node is its own neighbour."""

    def remove(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, -1, :20] = x[:, :, 19] = 0
        return x

    p.with_inputs(remove)


@fault(NUMERIC, "non_finite_value non_finite_input", GRAPH, given=some_isolated_nodes)
def isolated_nodes_divided_by_their_degree(p: Program) -> Places:
    p.model.self_loops = False
    return ("", "fc0*", "act0*", "dropout*")


@fault(NUMERIC, "non_finite_value", DECODER)
def causal_mask_without_the_diagonal(p: Program) -> Places:
    # The first token sees nothing: a softmax over minus infinity.
    for block in p.model.blocks:
        block.attention.visible = lambda n: torch.ones(n, n, dtype=torch.bool).tril(-1)
    return ("*attention*", "blocks*")


class LogOfProbabilities(TwoTaskLoss):
    """The binary cross-entropy written out, for logits that saturate a sigmoid."""

    def labels(self, logits: Tensor, target: Tensor) -> Tensor:
        probability = (100 * logits).sigmoid()
        return -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()


@fault(NUMERIC, "non_finite_value", SCENES)
def logarithm_of_a_saturated_sigmoid(p: Program) -> Places:
    p.loss = LogOfProbabilities()
    return ("labels", "labels.*", "")


@fault(NUMERIC, "non_finite_value initial_loss_anomaly exploding_gradient", TOWERS)
def temperature_given_for_its_logarithm(p: Program) -> Places:
    with torch.no_grad():
        p.model.log_scale.fill_(100.0)
    return ("", "log_scale", "*project*")


# Silent success.


@fault(
    SILENT,
    f"{NOT_TRAINED} no_learning loss_term_inactive no_signal",
    f"{DECODER} {GRAPH} {TOWERS}",
)
def loss_built_again_from_its_number(p: Program) -> None:
    # torch.tensor(loss.item(), requires_grad=True): backward() works and reaches no weight.
    inner = p.loss
    p.loss = lambda output, target: inner(output, target).detach().requires_grad_()


@fault(SILENT, "no_signal no_gradient no_learning", f"{UNET} {COUNTER}")
def output_rounded_before_the_loss(p: Program) -> Places:
    # Rounding has a gradient of 0.
    inner = p.loss
    p.loss = lambda output, target: inner(output.round(), target)
    return ("",)


@fault(SILENT, f"{NOT_LEARNABLE} no_supervision loss_task_mismatch", DECODER)
def mask_keeps_the_question_and_drops_the_answer(p: Program) -> None:
    p.collate = lambda _, x, y: (
        x,
        torch.cat((x[:, 1:], x[:, :1]), 1).masked_fill(y != IGNORED, IGNORED),
    )


@fault(SILENT, "trivial_target", DECODER)
def no_causal_mask_in_training(p: Program) -> None:
    # The generation has no later tokens; the training sees them.
    model = p.model

    def visible(length: int) -> Tensor:
        every = torch.ones(length, length, dtype=torch.bool)
        return every if model.training else every.tril()

    for block in model.blocks:
        block.attention.visible = visible


@fault(SILENT, "trivial_target", f"{SCENES} {COUNTER}")
def target_written_into_the_input(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone()
        if x.ndim == 2:
            x[:, : y.shape[1]] = 4 * y
        else:
            x[:, 0, 0] = y
        return x, y

    p.collate = collate


@fault(SILENT, "trivial_target constant_or_duplicate_input loss_task_mismatch", UNET)
def noise_added_to_the_target_too(p: Program) -> None:
    # The target is a view of the input that gets the noise.
    p.collate = lambda _, x, __: (x, x)


@fault(SILENT, "no_supervision non_finite_value", DECODER)
def most_answers_cut_off_by_the_maximal_length(p: Program) -> None:
    # The cross-entropy of a batch in which no answer is left is 0 / 0.
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y.masked_fill(torch.rand(len(y), 1) < 0.97, IGNORED)

    p.collate = collate
