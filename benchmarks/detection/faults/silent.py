"""Silent success: the run ends without an error and learned nothing, or the wrong task."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from detection.bases import BanditLoss
from detection.case import Class, Places
from detection.faults.register import fault
from detection.program import Program, output_layer, places_of

SILENT = Class.SILENT


@fault(SILENT, "no_supervision", "mlp-digits resnet-shapes")
def every_target_ignored(p: Program) -> None:
    p.with_targets(lambda y: torch.full_like(y, -100), test=False)


@fault(SILENT, "no_supervision", "transformer-chain")
def all_but_the_last_token_masked(p: Program) -> None:
    def mask(y: Tensor) -> Tensor:
        y = y.clone()
        y[:, :-1] = -100
        y[torch.arange(len(y)) % 8 > 0] = -100
        return y

    p.with_targets(mask, test=False)


@fault(SILENT, "no_supervision no_signal", "mlp-digits gru-waves")
def loss_multiplied_by_an_empty_mask(p: Program) -> None:
    inner = p.loss
    p.loss = lambda output, target: inner(output, target) * 0.0


class ConstantReward(BanditLoss):
    """Every action has the same reward, so that every advantage is 0."""

    def reward(self, action: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        return torch.ones(len(target))


@fault(SILENT, "no_signal", "policy-clusters")
def rewards_all_equal(p: Program) -> None:
    p.loss = ConstantReward()


class RewardNeverGiven(BanditLoss):
    """The reward compares with a class that no sample has."""

    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        return (action == target + 100).float()


@fault(SILENT, "no_signal", "policy-clusters")
def answer_parser_rejects_every_answer(p: Program) -> None:
    p.loss = RewardNeverGiven()


@fault(
    SILENT,
    "schedule_ended_early undertrained",
    "lstm-cue gru-waves",
)
def cosine_ends_at_a_tenth(p: Program) -> None:
    def schedule(optimizer: Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        end = steps // 10
        return torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                CosineAnnealingLR(optimizer, end),
                torch.optim.lr_scheduler.ConstantLR(optimizer, 1e-6, 10**6),
            ],
            [end],
        )

    p.schedule = schedule


@fault(SILENT, "trivial_target", "transformer-chain gru-waves")
def targets_not_shifted(p: Program) -> None:
    p.collate = lambda _, x, __: (x, x)


@fault(SILENT, "trivial_target", "mlp-friedman resmlp-clusters")
def target_among_the_features(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone()
        if y.ndim == 1:
            x[:, : int(p.data.y.max()) + 1] = 8.0 * nn.functional.one_hot(
                y, int(p.data.y.max()) + 1
            )
        else:
            x[:, :1] = 8.0 * y
        return x, y

    p.collate = collate


def resumed(p: Program, step_of_resume: int, change: Callable[[Program, Optimizer], None]) -> None:
    """Call `change(program, optimizer)` at the step of the resume."""

    def event(step: int, program: Program, optimizer: Optimizer) -> None:
        if step == step_of_resume:
            change(program, optimizer)

    p.events.append(event)


@fault(
    SILENT,
    "state_not_restored loss_spike",
    "mlp-digits resnet-shapes",
    onset=130,
)
def resume_leaves_the_head_out(p: Program) -> Places:
    name, _ = output_layer(p.model)

    def change(program: Program, optimizer: Optimizer) -> None:
        output_layer(program.model)[1].reset_parameters()
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group["lr"] /= 100

    resumed(p, 129, change)
    return (*places_of([name]), "")


@fault(
    SILENT,
    "state_not_restored loss_spike learning_rate_too_high",
    "mlp-friedman transformer-chain",
    onset=130,
)
def resume_restarts_the_schedule_high(p: Program) -> None:
    def change(_: Program, optimizer: Optimizer) -> None:
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group["lr"] *= 100

    resumed(p, 129, change)


class TwoTerms(nn.Module):
    """A penalty on the logits, and the cross-entropy times `weight`."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        task = nn.functional.cross_entropy(output, target)
        return 0.01 * (output**2).mean() + self.weight * task


def both_terms(p: Program) -> None:
    """Use both terms, as the twin does."""
    p.loss = TwoTerms(1.0)


@fault(
    SILENT,
    "loss_term_inactive",
    "lstm-cue resmlp-clusters",
    given=both_terms,
)
def main_term_weighted_zero(p: Program) -> None:
    p.loss = TwoTerms(0.0)


@fault(
    SILENT,
    "no_signal parameter_not_updated learning_rate_too_low",
    "mlp-digits transformer-chain",
)
def rate_of_zero_from_an_integer_division(p: Program) -> None:
    p.lr = 0.0


@fault(SILENT, "no_gradient parameter_not_updated loss_term_inactive", "mlp-digits cnn-digits")
def loss_recomputed_from_detached_output(p: Program) -> None:
    inner, model = p.loss, p.model

    def loss(output: Tensor, target: Tensor) -> Tensor:
        # The penalty keeps a graph, so that backward() works; the task's part has none.
        penalty = sum((w**2).sum() for w in model.parameters())
        return inner(output.detach(), target) + 1e-6 * penalty  # type: ignore[no-any-return]

    p.loss = loss
