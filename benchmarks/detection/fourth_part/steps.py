"""Wrong optimizers, schedules, capacities and checkpoints in the programs of the fourth part."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detection.case import Class, Places
from detection.faults.optimizer import HIGH, LOW
from detection.faults.register import fault
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
from detection.program import Program

OPTIMIZER, FIT, SILENT = Class.OPTIMIZER, Class.FIT, Class.SILENT


# Optimizer.


@fault(OPTIMIZER, LOW, f"{DIFFUSION} {DETECTOR}")
def lambda_schedule_returns_the_rate_and_no_factor(p: Program) -> None:
    # LambdaLR multiplies: the rate is squared.
    rate = p.lr
    p.schedule = lambda optimizer, steps: LambdaLR(optimizer, lambda t: rate * (1 - t / steps))


@fault(OPTIMIZER, f"clipping_always_active {LOW}", DETECTOR)
def clipped_before_the_loss_scale_is_removed(p: Program) -> None:
    # The norm of gradients that are multiplied by 65536 is clipped at 1; then they are divided.
    def register(program: Program, optimizer: Optimizer) -> None:
        weights = [*program.model.parameters()]

        def clip(*_: object) -> None:
            for weight in weights:
                assert weight.grad is not None
                weight.grad.mul_(65536)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            for weight in weights:
                assert weight.grad is not None
                weight.grad.div_(65536)

        optimizer.register_step_pre_hook(clip)

    p.started.append(register)


@fault(OPTIMIZER, f"{LOW} over_regularised", DETECTOR)
def rate_and_weight_decay_exchanged(p: Program) -> None:
    p.optimizer = lambda parameters, lr: SGD(parameters, 1e-4, momentum=0.9, weight_decay=lr)


@fault(OPTIMIZER, "over_regularised", CLICKS)
def weight_decay_meant_for_the_layers_on_the_embeddings(p: Program) -> Places:
    def make(parameters: list[Tensor], lr: float) -> Any:
        first = [id(w) for n, w in p.model.named_parameters() if n.startswith(("fac", "wei"))]
        codes = [w for w in parameters if id(w) in first]
        others = [w for w in parameters if id(w) not in first]
        return Adam([{"params": codes, "weight_decay": 0.1}, {"params": others}], lr)

    p.optimizer = make
    return ("factors*", "weights*", "")


@fault(OPTIMIZER, f"gradient_noise_dominates loss_oscillation {HIGH}", DETECTOR)
def batches_of_two(p: Program) -> None:
    p.batch_size = 2


@fault(OPTIMIZER, f"{HIGH} loss_spike bias_drift", f"{WIND} {PLATE}")
def rate_of_sgd_given_to_adam(p: Program) -> None:
    p.lr, p.schedule = 0.5, None


@fault(OPTIMIZER, f"schedule_ended_early state_not_restored {LOW}", f"{WIND} {SIAMESE}")
def schedule_starts_at_the_epoch_of_another_run(p: Program) -> None:
    # The number of finished epochs is read from the checkpoint of a longer run.
    p.schedule = lambda optimizer, _: LambdaLR(optimizer, lambda t: 0.97 ** (200 + t))


@fault(OPTIMIZER, f"{LOW} parameter_not_updated", f"{SIAMESE} {DIFFUSION}")
def first_layers_at_a_millionth_of_the_rate(p: Program) -> None:
    # A decay of the rate by layers, multiplied for each parameter instead of each layer.
    def make(parameters: list[Tensor], lr: float) -> Any:
        last = len(parameters) - 1
        groups = [{"params": [w], "lr": lr * 0.4 ** (last - i)} for i, w in enumerate(parameters)]
        return Adam(groups, lr)

    p.optimizer = make


# Fit.


@fault(FIT, "loss_plateau no_learning", f"{SIAMESE} {MELODIES} {PLATE}")
def a_width_of_one_or_two(p: Program) -> Places:
    if isinstance(p.model, models.TripletNet):
        p.model = models.TripletNet(outputs=1)
    elif isinstance(p.model, models.MelodyModel):
        p.model = models.MelodyModel(16, width=2)
    else:
        p.model = models.Field(width=1)
    return ("embed*", "rnn*", "net*", "")


@fault(FIT, "loss_plateau no_learning dead_relu", DIFFUSION)
def one_unit_between_all_layers(p: Program) -> Places:
    p.model = models.NoisePredictor(width=1)
    return ("blocks*", "input*", "time_fc*", "")


def validated(p: Program) -> None:
    """Log a validation loss on few samples, and train for longer, as the twin."""
    p.validate_every, p.steps = 10, 300


@fault(FIT, "overfitting", f"{CLICKS} {DETECTOR} {SIAMESE}", given=validated)
def sixty_samples(p: Program) -> None:
    p.sample = lambda p, _, g: torch.randint(60, (p.batch_size,), generator=g)


@fault(FIT, "loss_plateau over_regularised no_learning", f"{DETECTOR} {STRIPS}")
def dropout_of_095_before_the_head(p: Program) -> Places:
    name = "act_fc" if isinstance(p.model, models.Detector) else "act1"
    setattr(p.model, name, nn.Sequential(nn.ReLU(), nn.Dropout(0.95)))
    return (f"{name}*", "")


# Silent success.


@fault(
    SILENT,
    "state_not_restored loss_spike loss_oscillation no_learning parameter_jump loss_plateau",
    f"{WIND} {SIAMESE}",
    onset=40,
)
def the_best_weights_are_those_of_the_largest_loss(p: Program) -> None:
    # The weights of the best epoch are loaded after each one, and mode="max" keeps the first.
    first = copy.deepcopy(p.model.state_dict())

    def event(step: int, program: Program, _: Optimizer) -> None:
        if step % 40 == 39:
            program.model.load_state_dict(first)

    p.events.append(event)


@fault(SILENT, f"{LOW} parameter_not_updated absorbed_updates", f"{DIFFUSION} {WIND}")
def average_of_the_weights_written_back(p: Program) -> None:
    # After each step the model gets its own slow average instead of a copy of it.
    average = copy.deepcopy(p.model)

    def event(_: int, program: Program, __: Optimizer) -> None:
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), program.model.parameters(), strict=True):
                fast.copy_(slow.lerp_(fast, 1e-3))

    p.events.append(event)


@fault(
    SILENT,
    "state_not_restored loss_spike learning_rate_too_high loss_oscillation parameter_jump",
    f"{DETECTOR} {STRIPS}",
    onset=90,
)
def resumed_with_the_weights_of_another_order(p: Program) -> Places:
    # The checkpoint lists the units of the first layer in another order.
    def event(step: int, program: Program, optimizer: Optimizer) -> None:
        if step == 89:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group["lr"] /= 100
            with torch.no_grad():
                for weight in program.model.parameters():
                    weight.copy_(weight[torch.randperm(len(weight))])

    p.events.append(event)
    return ("",)
