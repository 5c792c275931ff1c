"""Modules and gradients of the unseen programs that are connected wrongly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detection.case import Class, Places
from detection.faults.optimizer import HIGH
from detection.faults.register import fault
from detection.faults.wiring import NOT_TRAINED, Detach
from detection.program import Program, append, around, put
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

WIRING = Class.WIRING


class Unregistered:
    """Layers in a plain list, which `parameters()` does not contain."""

    def __init__(self, layers: Any) -> None:
        self.layers = [*layers]

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@fault(WIRING, f"{NOT_TRAINED} no_learning loss_plateau", f"{RECIPES} {CLAIMS}")
def layers_in_a_plain_list(p: Program) -> Places:
    name = "layers" if hasattr(p.model, "layers") else "blocks"
    layers = getattr(p.model, name)
    delattr(p.model, name)
    setattr(p.model, name, Unregistered(layers))
    return ("layers*", "blocks*", "")


@fault(WIRING, f"{NOT_TRAINED} loss_plateau", f"{SOLIDS} {CHIRPS}")
def body_frozen_as_if_it_were_pretrained(p: Program) -> Places:
    for name, weight in p.model.named_parameters():
        weight.requires_grad_(name.startswith(("classifier", "score")))
    return ("features*", "fc*", "cnn*", "gru*", "attention*", "embed*", "context*", "norm*", "")


@fault(WIRING, f"{NOT_TRAINED} no_learning loss_plateau", f"{SOLIDS} {PATIENTS}")
def head_replaced_after_the_optimizer(p: Program) -> Places:
    name = "classifier" if hasattr(p.model, "classifier") else "hazards"

    def replace(program: Program, _: Optimizer) -> None:
        old = program.model.get_submodule(name)
        put(program.model, name, nn.Linear(old.in_features, old.out_features))  # type: ignore[arg-type]
        for weight in [w for n, w in program.model.named_parameters() if not n.startswith(name)]:
            weight.requires_grad_(False)

    p.started.append(replace)
    return (*around(name), "")


@fault(WIRING, f"{NOT_TRAINED} no_signal no_learning", QUERIES)
def loss_wrapped_into_a_new_tensor(p: Program) -> None:
    inner = p.loss

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return torch.tensor(inner(output, target).item(), requires_grad=True)

    p.loss = loss


@fault(WIRING, f"{NOT_TRAINED} loss_plateau", f"{CHIRPS} {PHOTO}")
def features_converted_through_numpy(p: Program) -> Places:
    name = "cnn" if hasattr(p.model, "cnn") else "act2"
    append(p.model, name, Detach())
    return (*around(name), "conv1*", "conv2*", "act1*", "")


@fault(
    WIRING,
    f"missing_zero_grad {HIGH} loss_oscillation loss_spike",
    f"{SALES} {PENDULUMS}",
)
def gradients_zeroed_once_per_epoch(p: Program) -> None:
    p.zero_grad = False

    def event(step: int, _: Program, optimizer: Optimizer) -> None:
        if step % 60 == 59:
            optimizer.zero_grad()

    p.events.append(event)


@fault(
    WIRING,
    "missing_nonlinearity loss_plateau no_learning",
    f"{QUERIES} {CLAIMS} {PENDULUMS}",
)
def activations_never_called(p: Program) -> Places:
    kinds = nn.GELU | nn.ReLU | nn.ELU | nn.Tanh
    for name, module in [*p.model.named_modules()]:
        if isinstance(module, kinds):
            put(p.model, name, nn.Identity())
    return ("*",)


@fault(
    WIRING,
    "wrong_train_eval_mode no_learning loss_plateau",
    SOLIDS,
)
def training_in_evaluation_mode(p: Program) -> None:
    # model.eval() is called for the first validation, before the first step.
    p.train_mode = False


@fault(WIRING, "loss_plateau no_learning label_noise", SOLIDS)
def points_viewed_instead_of_transposed(p: Program) -> Places:
    # (samples, points, 3) is viewed as (samples, 3, points): the axes are mixed.
    p.forward = lambda model, x: model(x.reshape(len(x), 3, -1).transpose(1, 2))
    return ("",)


class Viewed(nn.Module):
    """Puts the four channels below each other and takes them as rows of the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 1, 2 * x.shape[2], 2 * x.shape[3])


@fault(WIRING, "loss_plateau no_learning label_noise", PHOTO)
def channels_viewed_instead_of_shuffled(p: Program) -> Places:
    p.model.shuffle = Viewed()
    return ("shuffle*", "conv3*", "")


@fault(WIRING, "loss_plateau no_learning label_noise", RECIPES)
def attention_over_the_samples_of_the_batch(p: Program) -> Places:
    # batch_first is forgotten: each token looks at the same place of the other texts.
    for layer in p.model.layers:
        layer.attend = across_samples
    return ("layers*", "")


def across_samples(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend over dimension 0 instead of dimension 2."""
    q, k, v = (each.transpose(0, 2) for each in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 2)


@fault(WIRING, f"{NOT_TRAINED} loss_plateau no_learning", RECIPES)
def every_position_is_zero(p: Program) -> Places:
    table = p.model.positions
    p.model.positions = nn.Embedding(1, table.embedding_dim)
    p.model.positions.register_forward_pre_hook(lambda _, args: (0 * args[0],))
    return ("positions*", "layers*", "")
