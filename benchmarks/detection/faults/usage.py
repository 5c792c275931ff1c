"""Usage: arguments of layers, optimizers and schedules that mean something else than intended.

These are put into programs of the second part alone.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, StepLR

from detection.case import Class, Places
from detection.faults.optimizer import HIGH, LOW
from detection.faults.register import fault
from detection.faults.wiring import NOT_TRAINED, Detach
from detection.program import Program, append, around
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

WIRING, OPTIMIZER, FIT = Class.WIRING, Class.OPTIMIZER, Class.FIT


@fault(WIRING, NOT_TRAINED, f"{BLOBS} {VAE} {TRANSLATOR}")
def encoder_under_no_grad(p: Program) -> Places:
    # As for a pretrained encoder, but this one is new.
    encoder = p.model.encoder
    encoder.forward = torch.no_grad()(encoder.forward)
    return (*around("encoder"), *around("embedding"))


@fault(WIRING, NOT_TRAINED, f"{ENCODER} {TABLE} {TRANSLATOR}")
def weights_assigned_after_the_optimizer(p: Program) -> None:
    # load_state_dict(assign=True) puts other tensors into the model than the optimizer has.
    def load(program: Program, _: Optimizer) -> None:
        state = {k: v.clone() for k, v in program.model.state_dict().items()}
        program.model.load_state_dict(state, assign=True)

    p.started.append(load)


@fault(WIRING, NOT_TRAINED, TAGGER)
def embeddings_detached(p: Program) -> Places:
    append(p.model, "embedding", Detach())
    return around("embedding")


@fault(WIRING, "label_noise no_learning loss_plateau", f"{TAGGER} {TRANSLATOR}")
def batch_first_forgotten(p: Program) -> Places:
    # The recurrent layers run over the samples of a batch instead of the time.
    names = []
    for name, module in p.model.named_modules():
        if isinstance(module, nn.RNNBase):
            module.batch_first = False
            names.append(name)
    return (*names, "")


@fault(OPTIMIZER, "over_regularised", f"{VGG} {BLOBS}")
def momentum_and_weight_decay_swapped(p: Program) -> None:
    p.optimizer = lambda parameters, lr: SGD(parameters, lr, momentum=1e-4, weight_decay=0.9)


@fault(OPTIMIZER, f"{HIGH} loss_oscillation loss_spike", TRANSLATOR)
def betas_swapped(p: Program) -> None:
    p.optimizer = lambda parameters, lr: AdamW(parameters, lr, betas=(0.999, 0.9))


@fault(OPTIMIZER, "over_regularised", f"{ENCODER} {TAGGER} {TRANSLATOR}")
def l2_penalty_of_one_half_in_adam(p: Program) -> None:
    p.optimizer = lambda parameters, lr: Adam(parameters, lr, weight_decay=0.5)


@fault(OPTIMIZER, f"schedule_ended_early {LOW}", f"{SIGNAL} {SELU} {TRANSLATOR}")
def epochs_of_a_step_schedule_are_batches(p: Program) -> None:
    p.schedule = lambda optimizer, _: StepLR(optimizer, 10, 0.1)


@fault(OPTIMIZER, LOW, f"{ENCODER} {VAE}")
def warm_up_of_a_million_steps(p: Program) -> None:
    p.schedule = lambda optimizer, _: LambdaLR(optimizer, lambda t: (t + 1) / 1e6)


def accumulated(p: Program) -> None:
    """Accumulate sixteen batches of eight under SGD with momentum, as the twin."""
    p.accumulate, p.batch_size, p.steps = 16, 8, 80
    p.schedule = None


@fault(OPTIMIZER, f"{HIGH} dead_relu initial_loss_anomaly", VGG, given=accumulated)
def accumulation_without_division(p: Program) -> None:
    inner = p.loss
    p.loss = lambda output, target: 16 * inner(output, target)


@fault(OPTIMIZER, "clipping_always_active learning_rate_too_low", SIGNAL)
def sgd_clipped_at_1e_4(p: Program) -> None:
    p.optimizer, p.clip_norm = SGD, 1e-4


@fault(FIT, "over_regularised loss_plateau no_learning", f"{TABLE} {TAGGER}")
def keep_probability_given_as_dropout(p: Program) -> Places:
    for module in p.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.9
    return ("*dropout*", "")


def validated(p: Program) -> None:
    """Log a validation loss, as the twin."""
    p.validate_every = 20


@fault(FIT, "wrong_train_eval_mode overfitting", f"{BLOBS} {TABLE}", given=validated)
def momentum_of_another_library_in_batch_norm(p: Program) -> Places:
    # There, momentum is the share that is kept; here, the share that is new.
    for module in p.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1e-3
    return ("*bn*", "")


@fault(FIT, "loss_plateau no_learning", VAE)
def a_single_code(p: Program) -> Places:
    model = p.model
    model.mean, model.log_variance = nn.Linear(64, 1), nn.Linear(64, 1)
    model.decoder.fc1 = nn.Linear(1, 64)
    return ("mean*", "log_variance*", "decoder.fc1*", "")


@fault(FIT, LOW, ACTOR)
def a_plan_of_25_steps(p: Program) -> None:
    p.steps = 25
