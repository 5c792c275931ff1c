"""Wiring: the gradient or the optimizer does not reach what should be trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from detection.case import Class, Places
from detection.faults.register import fault
from detection.program import (
    Program,
    append,
    around,
    hidden_layers,
    output_layer,
    places_of,
    swap,
    weight_layers,
)

NOT_TRAINED = "no_gradient parameter_not_updated"


class Detach(nn.Module):
    """Cuts the graph, as `.detach()`, `.data` or a conversion to numpy does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def upstream(program: Program, last: str) -> Places:
    """Return the places of all parameters defined up to the module `last`."""
    names = [name for name, _ in program.model.named_parameters()]
    end = max(i for i, name in enumerate(names) if name.startswith(f"{last}."))
    return places_of({name.rpartition(".")[0] for name in names[: end + 1]})


@fault(
    Class.WIRING,
    "missing_zero_grad loss_divergence loss_oscillation",
    "cnn-digits transformer-chain",
)
def no_zero_grad(p: Program) -> None:
    p.zero_grad = False


@fault(Class.WIRING, NOT_TRAINED, "deep-digits mlp-quadratic")
def detached_in_the_middle(p: Program) -> Places:
    layers = hidden_layers(p.model)
    name = layers[(len(layers) - 1) // 2][0]
    places = upstream(p, name)
    append(p.model, name, Detach())
    return (*places, *around(name))


@fault(Class.WIRING, NOT_TRAINED, "lstm-cue gru-waves")
def detached_states(p: Program) -> Places:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        states, _ = model.rnn(x)  # type: ignore[operator]
        used = states if model.every else states[:, -1]
        return model.head(used.detach())  # type: ignore[no-any-return,operator]

    p.forward = forward
    return around("rnn")


@fault(Class.WIRING, NOT_TRAINED, "cnn-digits resnet-shapes")
def head_only_in_optimizer(p: Program) -> Places:
    p.parameters = lambda model: [*output_layer(model)[1].parameters()]
    trained = output_layer(p.model)[0]
    return places_of({n for n, m in p.model.named_modules() if n != trained and [*m.parameters()]})


@fault(Class.WIRING, NOT_TRAINED, "cnn-digits gru-waves")
def head_replaced_after_optimizer(p: Program) -> Places:
    name, old = output_layer(p.model)

    def replace(program: Program, _: torch.optim.Optimizer) -> None:
        program.model.set_submodule(name, nn.Linear(old.in_features, old.out_features))

    p.started.append(replace)
    return around(name)


@fault(Class.WIRING, NOT_TRAINED, "autoencoder-digits resmlp-clusters")
def frozen_output_layer(p: Program) -> Places:
    name, layer = output_layer(p.model)
    layer.requires_grad_(False)
    return around(name)


@fault(Class.WIRING, f"{NOT_TRAINED} no_learning", "mlp-digits resnet-shapes")
def optimizer_of_a_copy(p: Program) -> None:
    p.parameters = lambda model: [*copy.deepcopy(model).parameters()]


@fault(Class.WIRING, f"{NOT_TRAINED} no_signal no_learning", "mlp-digits gru-waves")
def step_before_backward(p: Program) -> None:
    p.step_first = True


@fault(Class.WIRING, "wrong_train_eval_mode", "cnn-digits", name="batch_norm_in_eval_mode")
def batch_norm_in_eval_mode(p: Program) -> Places:
    p.train_mode = False
    return ("*bn*", "")


def strong_dropout_on_few_samples(p: Program) -> None:
    """Train on 150 samples, where dropout decides the test error."""
    from dataclasses import replace

    p.data = replace(p.data, x=p.data.x[:150], y=p.data.y[:150])
    p.steps = 300
    swap(p.model, nn.ReLU, lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.5)))


@fault(
    Class.WIRING,
    "wrong_train_eval_mode overfitting",
    "mlp-friedman mlp-quadratic",
    given=strong_dropout_on_few_samples,
)
def dropout_in_eval_mode(p: Program) -> Places:
    p.train_mode = False
    return ("act*", "")


@fault(
    Class.WIRING,
    "missing_nonlinearity loss_plateau no_learning",
    "autoencoder-digits tanh-rings",
)
def no_activations(p: Program) -> Places:
    for kind in (nn.ReLU, nn.Tanh, nn.SELU):
        swap(p.model, kind, nn.Identity)
    return (*places_of(name for name, _ in weight_layers(p.model)), "*act*", "")


@fault(Class.WIRING, "no_gradient parameter_not_updated", "resnet-shapes transformer-chain")
def one_block_frozen_by_no_grad(p: Program) -> Places:
    block = p.model.get_submodule("blocks.0")
    block.forward = torch.no_grad()(block.forward)
    early = ("stem", "stem.*", "embedding", "embedding.*", "position", "position.*")
    return (*around("blocks.0"), *early)
