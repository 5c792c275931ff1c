"""Wrong optimizers, schedules, capacities and numbers of steps in the unseen programs."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from detection.case import Class, Places
from detection.faults.optimizer import HIGH, LOW
from detection.faults.register import fault
from detection.program import Program
from detection.unseen import models
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

OPTIMIZER, FIT, SILENT = Class.OPTIMIZER, Class.FIT, Class.SILENT


# Optimizer.


@fault(
    OPTIMIZER,
    f"{HIGH} loss_spike dead_relu saturated_activation parameter_jump",
    f"{SALES} {PHOTO}",
)
def rate_of_adadelta_given_to_adam(p: Program) -> None:
    p.optimizer, p.lr, p.schedule = Adam, 1.0, None


@fault(OPTIMIZER, LOW, f"{CHIRPS} {QUERIES}")
def rate_for_fine_tuning_of_a_new_network(p: Program) -> None:
    p.lr = 2e-5


@fault(OPTIMIZER, f"{LOW} loss_plateau", RECIPES)
def plain_sgd_at_a_thousandth(p: Program) -> None:
    p.optimizer, p.lr = SGD, 1e-3


@fault(OPTIMIZER, f"schedule_ended_early {LOW} loss_plateau", PENDULUMS)
def exponential_decay_of_epochs_called_for_each_batch(p: Program) -> None:
    p.schedule = lambda optimizer, _: ExponentialLR(optimizer, 0.9)


@fault(OPTIMIZER, f"schedule_ended_early {LOW} loss_plateau", f"{SALES} {PHOTO}")
def plateau_schedule_that_waits_for_a_larger_loss(p: Program) -> None:
    # ReduceLROnPlateau(mode="max", patience=5) of a loss that falls: a tenth after each 6 steps.
    p.schedule = lambda optimizer, _: LambdaLR(optimizer, lambda t: max(0.1 ** (t // 6), 1e-6))


@fault(OPTIMIZER, f"{LOW} loss_plateau", f"{RECIPES} {CLAIMS}")
def warm_up_of_a_large_model(p: Program) -> None:
    p.schedule = lambda optimizer, _: LambdaLR(optimizer, lambda t: (t + 1) / 40_000)


@fault(OPTIMIZER, f"over_regularised {LOW} loss_plateau", SOLIDS)
def decay_of_ten_in_adamw(p: Program) -> None:
    p.optimizer = lambda parameters, lr: AdamW(parameters, lr, weight_decay=10.0)


@fault(OPTIMIZER, "over_regularised no_learning loss_plateau", SALES)
def decay_of_one_tenth_in_adam(p: Program) -> None:
    p.optimizer = lambda parameters, lr: Adam(parameters, lr, weight_decay=0.1)


@fault(OPTIMIZER, f"clipping_always_active {LOW}", PATIENTS)
def clip_norm_of_a_thousandth_with_sgd(p: Program) -> None:
    p.clip_norm = 1e-3


def sgd(p: Program) -> None:
    """Train with SGD and momentum, as the twin."""
    p.lr, p.schedule = 0.05, None
    p.optimizer = lambda parameters, lr: SGD(parameters, lr, momentum=0.9)


@fault(OPTIMIZER, f"{HIGH} loss_spike dead_relu", f"{PATIENTS} {QUERIES}", given=sgd)
def rate_scaled_by_64_devices_that_are_not_there(p: Program) -> None:
    p.lr *= 64


@fault(OPTIMIZER, f"{HIGH} loss_oscillation loss_spike", PENDULUMS)
def betas_of_adam_exchanged(p: Program) -> None:
    p.optimizer = lambda parameters, lr: Adam(parameters, lr, betas=(0.999, 0.9))


def with_adam(p: Program) -> None:
    """Train with Adam, as the twin."""
    p.optimizer = Adam


@fault(
    OPTIMIZER,
    f"{HIGH} loss_oscillation state_not_restored gradient_noise_dominates loss_plateau loss_spike",
    PHOTO,
    given=with_adam,
)
def adam_created_again_for_each_batch(p: Program) -> None:
    p.events.append(lambda _, __, optimizer: optimizer.state.clear())


@fault(OPTIMIZER, f"loss_divergence loss_task_mismatch {HIGH}", QUERIES)
def maximize_for_a_loss(p: Program) -> None:
    p.optimizer = lambda parameters, lr: Adam(parameters, lr, maximize=True)


@fault(
    OPTIMIZER,
    f"{HIGH} loss_spike state_not_restored parameter_jump dead_relu",
    f"{SOLIDS} {CLAIMS}",
    onset=100,
)
def rate_times_1000_by_a_warm_restart(p: Program) -> None:
    p.schedule = lambda optimizer, _: LambdaLR(optimizer, lambda t: 1.0 if t < 100 else 1000.0)


# Fit.


@fault(FIT, "loss_plateau no_learning dead_relu undertrained", f"{PHOTO} {PENDULUMS}")
def one_channel_or_unit(p: Program) -> Places:
    if isinstance(p.model, models.SubPixelNet):
        p.model = models.SubPixelNet(1)
    else:
        p.model = models.NeuralOde(1)
    return ("*conv*", "*act*", "*fc*", "*tanh*", "*out*", "")


@fault(FIT, "loss_plateau no_learning dead_relu undertrained", f"{SALES} {RECIPES}")
def a_width_of_two_to_four(p: Program) -> Places:
    p.model = (
        models.Nbeats(width=2) if isinstance(p.model, models.Nbeats) else models.MaskedModel(4)
    )
    return ("blocks*", "layers*", "decoder*", "tokens*", "")


@fault(
    FIT,
    "over_regularised loss_plateau no_learning gradient_noise_dominates",
    f"{CLAIMS} {PATIENTS}",
)
def keep_rate_of_five_percent(p: Program) -> Places:
    # nn.Dropout receives the share that is dropped.
    for module in p.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.97
    return ("*drop*", "*blocks*", "")


@fault(
    FIT,
    "undertrained learning_rate_too_low",
    f"{RECIPES} {PHOTO} {SOLIDS}",
)
def a_tenth_of_one_pass(p: Program) -> None:
    p.steps = 12


def validated(p: Program) -> None:
    """Log a validation loss, as the twin, and train for longer."""
    p.validate_every, p.steps = 10, 400


@fault(FIT, "overfitting", f"{CLAIMS} {QUERIES} {PATIENTS} {SALES}", given=validated)
def forty_samples(p: Program) -> None:
    p.sample = lambda p, _, g: torch.randint(40, (p.batch_size,), generator=g)


# Silent success.


@fault(
    SILENT,
    f"schedule_ended_early {LOW} loss_plateau",
    f"{PENDULUMS} {SALES}",
)
def cosine_over_the_steps_of_a_small_sample(p: Program) -> None:
    def factor(step: int) -> float:
        return (1 + math.cos(math.pi * min(step / 20, 1.0))) / 2

    p.schedule = lambda optimizer, _: LambdaLR(optimizer, factor)


@fault(
    SILENT,
    "parameter_not_updated learning_rate_too_low no_learning loss_plateau",
    f"{CLAIMS} {QUERIES}",
)
def rate_of_zero_in_the_group_of_the_body(p: Program) -> Places:
    # The groups of a fine-tuning script: the body has a rate of 0.
    head = ("head", "score")

    def groups(model: nn.Module) -> list[dict[str, object]]:
        body = [w for n, w in model.named_parameters() if not n.startswith(head)]
        top = [w for n, w in model.named_parameters() if n.startswith(head)]
        return [{"params": body, "lr": 0.0}, {"params": top}]

    p.parameters = groups
    return ("first*", "blocks*", "last_norm*", "embed*", "context*", "norm*", "fc*", "")


def slow_sgd(p: Program) -> None:
    """Train with SGD at a small rate and for longer, as the twin."""
    p.lr, p.steps = 0.005, 500
    p.optimizer = lambda parameters, lr: SGD(parameters, lr, momentum=0.9)


@fault(
    SILENT,
    "absorbed_updates learning_rate_too_low no_learning loss_plateau",
    QUERIES,
    given=slow_sgd,
)
def weights_kept_in_bfloat16(p: Program) -> None:
    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x.bfloat16()).float()  # type: ignore[no-any-return]

    p.model, p.forward = p.model.bfloat16(), forward


@fault(
    SILENT,
    "parameter_jump state_not_restored loss_spike loss_oscillation no_learning loss_plateau",
    f"{SOLIDS} {PHOTO}",
    onset=25,
)
def model_built_again_for_each_fold_of_25_steps(p: Program) -> None:
    # reset_parameters is applied between folds, and the last fold is the model that is kept.
    def event(step: int, program: Program, _: Optimizer) -> None:
        if step % 25 == 24 and step + 1 < program.steps:
            for module in program.model.modules():
                if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.BatchNorm1d):
                    module.reset_parameters()

    p.events.append(event)
