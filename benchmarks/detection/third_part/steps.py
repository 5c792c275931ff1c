"""Optimizers, schedules, capacities and checkpoints of the third part that are wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, Rprop
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from detection.case import Class, Places
from detection.faults.optimizer import HIGH, LOW
from detection.faults.register import fault
from detection.program import Program, output_layer
from detection.third_part import models
from detection.third_part.mapping import (
    COUNTER,
    DECODER,
    GRAPH,
    MIXER,
    SCENES,
    TOWERS,
    UNET,
    WAVENET,
)

OPTIMIZER, FIT, SILENT = Class.OPTIMIZER, Class.FIT, Class.SILENT


# Optimizer and fit.


@fault(OPTIMIZER, f"{HIGH} dead_relu", TOWERS)
def rate_multiplied_by_the_batch_size(p: Program) -> None:
    p.lr *= p.batch_size


@fault(OPTIMIZER, f"schedule_ended_early {LOW}", f"{DECODER} {MIXER}")
def warm_up_restarts_at_every_epoch(p: Program) -> None:
    # The scheduler is created inside the loop over epochs, of 20 batches.
    p.schedule = lambda optimizer, _: LambdaLR(optimizer, lambda t: (t % 20 + 1) / 2000)


@fault(OPTIMIZER, f"schedule_ended_early {LOW}", f"{WAVENET} {COUNTER}")
def plateau_schedule_for_an_accuracy(p: Program) -> None:
    # mode="max" takes each fall of the loss for a bad epoch.
    inner, schedules, losses = p.loss, list[ReduceLROnPlateau](), list[float]()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        value: Tensor = inner(output, target)
        losses.append(float(value))
        return value

    def start(_: Program, optimizer: Optimizer) -> None:
        schedules.append(ReduceLROnPlateau(optimizer, mode="max", patience=1))

    def event(step: int, _: Program, __: Optimizer) -> None:
        if step % 8 == 7:
            schedules[0].step(sum(losses[-8:]) / 8)

    p.loss, p.schedule = loss, None
    p.started.append(start)
    p.events.append(event)


@fault(OPTIMIZER, f"{LOW} parameter_not_updated", f"{COUNTER} {UNET}")
def backbone_at_the_rate_of_fine_tuning(p: Program) -> None:
    head = [*output_layer(p.model)[1].parameters()]
    inner, ids = p.optimizer, {id(w) for w in head}

    def make(parameters: list[Tensor], lr: float) -> Any:
        others = [w for w in parameters if id(w) not in ids]
        return inner([{"params": others, "lr": 1e-5 * lr}, {"params": head}], lr)

    p.optimizer = make


@fault(
    OPTIMIZER,
    "loss_divergence loss_task_mismatch learning_rate_too_high",
    WAVENET,
)
def maximize_left_from_another_project(p: Program) -> None:
    p.optimizer = lambda parameters, lr: AdamW(parameters, lr, maximize=True)


def plain_sgd(p: Program) -> None:
    """SGD with momentum, as the twin."""
    p.optimizer, p.lr = lambda w, lr: SGD(w, lr, momentum=0.9), 0.03


@fault(OPTIMIZER, "clipping_always_active learning_rate_too_low", SCENES, given=plain_sgd)
def clipped_by_value_at_one_millionth(p: Program) -> None:
    def clip(program: Program, optimizer: Optimizer) -> None:
        weights = [*program.model.parameters()]
        optimizer.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_value_(weights, 1e-6))

    p.started.append(clip)


@fault(
    OPTIMIZER,
    f"{HIGH} gradient_noise_dominates loss_oscillation no_learning loss_plateau",
    SCENES,
)
def rprop_on_small_batches(p: Program) -> None:
    p.optimizer, p.batch_size, p.schedule = Rprop, 4, None


def sgd_for_a_sum(p: Program) -> None:
    """SGD with a rate for a mean over the samples, as the twin."""
    p.optimizer, p.lr, p.schedule = SGD, 0.1, None


@fault(OPTIMIZER, f"{HIGH} dead_relu", SCENES, given=sgd_for_a_sum)
def gradients_multiplied_for_each_worker(p: Program) -> None:
    # The sum over 64 workers instead of the mean.
    def multiply(program: Program, optimizer: Optimizer) -> None:
        def all_reduce(*_: object) -> None:
            for weight in program.model.parameters():
                if weight.grad is not None:
                    weight.grad.mul_(64)

        optimizer.register_step_pre_hook(all_reduce)

    p.started.append(multiply)


@fault(FIT, "loss_plateau no_learning", WAVENET)
def kernels_of_one(p: Program) -> Places:
    p.model = models.WaveNet(3, kernel=1)
    return ("blocks*", "")


@fault(FIT, "loss_plateau no_learning", f"{SCENES} {TOWERS}")
def trunk_of_two_units(p: Program) -> Places:
    model = p.model
    if isinstance(model, models.TwoHeads):
        p.model = models.TwoHeads(24, 6, width=2)
    else:
        model.query, model.item = models.tower(16, 16, width=2), models.tower(20, 16, width=2)
    return ("trunk*", "query*", "item*", "")


@fault(
    FIT,
    "over_regularised initial_loss_anomaly loss_plateau no_learning",
    f"{MIXER} {UNET}",
)
def a_penalty_on_all_weights_without_a_factor(p: Program) -> None:
    inner, model = p.loss, p.model

    def loss(output: Tensor, target: Tensor) -> Tensor:
        penalty = sum((w**2).sum() for w in model.parameters())
        return inner(output, target) + penalty  # type: ignore[no-any-return]

    p.loss = loss


def validated(p: Program) -> None:
    """Log a validation loss, as the twin."""
    p.validate_every = 10


@fault(FIT, f"wrong_train_eval_mode overfitting {LOW}", COUNTER, given=validated)
def average_of_the_weights_that_hardly_moves(p: Program) -> None:
    # The evaluation uses an average with a decay of 0.9999 from the first weights on.
    average = copy.deepcopy(p.model)

    def event(_: int, program: Program, __: Optimizer) -> None:
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), program.model.parameters(), strict=True):
                slow.lerp_(fast, 1e-4)

    p.forward = lambda model, x: model(x) if model.training else average(x)
    p.events.append(event)


# Silent success.


@fault(
    SILENT,
    "state_not_restored loss_spike loss_oscillation no_learning loss_plateau",
    f"{DECODER} {SCENES}",
    onset=30,
)
def weights_initialised_at_every_epoch(p: Program) -> None:
    # The function that trains one epoch, of 30 batches, creates the weights.
    def event(step: int, program: Program, _: Optimizer) -> None:
        if step % 30 == 29 and step + 1 < program.steps:
            for module in program.model.modules():
                reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
                if reset is not None:
                    reset()

    p.events.append(event)


def pretrained(p: Program) -> None:
    """Fine-tune at a fiftieth of the rate from weights that were trained on the same data."""
    p.started.append(pretrain)
    p.lr, p.schedule = p.lr / 50, None


def pretrain(program: Program, _: Optimizer) -> None:
    """Train the model's weights, as a checkpoint has them."""
    optimizer = Adam(program.model.parameters(), 50 * program.lr)
    for _ in range(120):
        rows = torch.randint(len(program.data.x), (32,))
        optimizer.zero_grad()
        program.loss(program.model(program.data.x[rows]), program.data.y[rows]).backward()
        optimizer.step()


@fault(
    SILENT,
    f"state_not_restored {LOW}",
    f"{SCENES} {GRAPH}",
    given=pretrained,
)
def checkpoint_whose_keys_do_not_match(p: Program) -> None:
    # load_state_dict(strict=False) of keys with the prefix "module." loads nothing.
    p.started.remove(pretrain)
