"""Initialisation and biases: the first weights, and biases that hold the wrong values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from detection import models
from detection.case import Class, Places
from detection.faults.register import fault
from detection.program import (
    Program,
    activation_after,
    hidden_layers,
    output_layer,
    places_of,
    weight_layers,
)

INIT, BIAS = Class.INITIALISATION, Class.BIAS


@fault(INIT, "symmetric_init", "autoencoder-digits tanh-rings", value=0.0, name="zeros")
@fault(INIT, "symmetric_init", "mlp-friedman tanh-rings", value=0.05, name="constant")
@fault(
    INIT,
    "symmetric_init init_scale_too_large initial_loss_anomaly",
    "mlp-digits",
    value=1.0,
    name="ones",
)
def constant_init(p: Program, value: float) -> Places:
    for _, layer in weight_layers(p.model):
        nn.init.constant_(layer.weight, value)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return places_of(name for name, _ in weight_layers(p.model))


TOO_LARGE = "init_scale_too_large initial_loss_anomaly exploding_gradient"


@fault(INIT, TOO_LARGE, "autoencoder-digits resmlp-clusters")
def standard_normal_init(p: Program) -> None:
    for parameter in p.model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter)


@fault(INIT, TOO_LARGE, "transformer-chain gru-waves")
def all_matrices_times_ten(p: Program) -> None:
    with torch.no_grad():
        for parameter in p.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)


@fault(INIT, TOO_LARGE, "cnn-digits transformer-chain")
def head_times_hundred(p: Program) -> Places:
    name, layer = output_layer(p.model)
    with torch.no_grad():
        layer.weight.mul_(100)
    return (*places_of([name]), "")


TOO_SMALL = "init_scale_too_small vanishing_gradient init_activation_mismatch"


@fault(INIT, TOO_SMALL, "autoencoder-digits mlp-quadratic")
def tiny_normal_init(p: Program) -> Places:
    for _, layer in weight_layers(p.model):
        nn.init.normal_(layer.weight, std=2e-3)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return places_of(name for name, _ in weight_layers(p.model))


def deep_tanh(p: Program) -> None:
    """Replace the model by ten tanh layers of width 32, with the gain for tanh."""
    inputs, outputs = p.data.x.shape[1], output_layer(p.model)[1].out_features
    p.model = models.mlp(inputs, *[32] * 10, outputs, activation=nn.Tanh)
    for _, layer in hidden_layers(p.model):
        nn.init.xavier_normal_(layer.weight, gain=5 / 3)
    p.optimizer, p.lr = torch.optim.Adam, 1e-3


@fault(INIT, TOO_SMALL, "tanh-rings resmlp-clusters", given=deep_tanh)
def tiny_init_of_deep_tanh(p: Program) -> Places:
    for _, layer in hidden_layers(p.model):
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return places_of(name for name, _ in weight_layers(p.model))


@fault(
    INIT, "saturated_activation init_scale_too_large", "tanh-rings resmlp-clusters", given=deep_tanh
)
def large_init_of_deep_tanh(p: Program) -> Places:
    for _, layer in hidden_layers(p.model):
        nn.init.normal_(layer.weight, std=1.5)
    return (*places_of(name for name, _ in hidden_layers(p.model)), "act*")


def twenty_layers(p: Program) -> None:
    """Twenty ReLU layers of width 48 with He initialisation."""
    inputs, outputs = p.data.x.shape[1], output_layer(p.model)[1].out_features
    p.model = models.mlp(inputs, *[48] * 20, outputs, he=True)
    p.optimizer, p.lr, p.steps = torch.optim.Adam, 5e-4, 200


@fault(
    INIT,
    TOO_SMALL,
    "mlp-digits resmlp-clusters",
    given=twenty_layers,
    name="default_init_20_layers",
)
def default_init(p: Program) -> Places:
    for _, layer in hidden_layers(p.model):
        layer.reset_parameters()
    return (*places_of(name for name, _ in weight_layers(p.model)), "")


@fault(
    INIT, TOO_SMALL, "mlp-digits resmlp-clusters", given=twenty_layers, name="xavier_init_20_layers"
)
def xavier_init(p: Program) -> Places:
    for _, layer in hidden_layers(p.model):
        nn.init.xavier_normal_(layer.weight, gain=0.7)
    return (*places_of(name for name, _ in weight_layers(p.model)), "")


@fault(INIT, TOO_SMALL, "deep-digits mlp-quadratic")
def one_layer_tiny(p: Program) -> Places:
    layers = hidden_layers(p.model)
    name, layer = layers[len(layers) // 2]
    with torch.no_grad():
        layer.weight.mul_(1e-4)
    return places_of([name])


@fault(INIT, TOO_LARGE, "autoencoder-digits deep-digits")
def one_layer_times_fifty(p: Program) -> Places:
    name, layer = hidden_layers(p.model)[1]
    with torch.no_grad():
        layer.weight.mul_(50)
    return places_of([name])


# Biases.


@fault(BIAS, "dead_relu", "mlp-friedman mlp-quadratic")
def hidden_biases_minus_ten(p: Program) -> Places:
    for _, layer in hidden_layers(p.model):
        nn.init.constant_(layer.bias, -10.0)  # type: ignore[arg-type]
    return ("*fc*", "*conv*", "*act*")


@fault(BIAS, "dead_relu", "autoencoder-digits mlp-quadratic", name="one_layer_bias_minus_ten")
def one_bias_minus_ten(p: Program) -> Places:
    name, layer = hidden_layers(p.model)[1]
    nn.init.constant_(layer.bias, -10.0)  # type: ignore[arg-type]
    return (*places_of([name]), activation_after(p.model, name))


@fault(BIAS, "initial_loss_anomaly output_bias_prior", "lstm-cue resmlp-clusters")
def head_bias_favours_one_class(p: Program) -> Places:
    name, layer = output_layer(p.model)
    with torch.no_grad():
        layer.bias[0] = 60.0
    return (*places_of([name]), "")


@fault(
    BIAS,
    "bias_drift target_not_scaled output_bias_prior initial_loss_anomaly",
    "mlp-friedman gru-waves",
)
def target_with_large_offset(p: Program) -> Places:
    p.with_targets(lambda y: y + 100)
    return (*places_of([output_layer(p.model)[0]]), "")


def decayed(p: Program) -> None:
    """Use AdamW without weight decay on the biases, on targets that need them."""
    p.with_targets(lambda y: y + 3)
    p.optimizer = _decay(on_biases=False)
    p.steps = 300


def _decay(*, on_biases: bool) -> Callable[[Any, float], Optimizer]:
    def make(parameters: Any, lr: float) -> Optimizer:
        groups = [
            {"params": [x for x in parameters if x.ndim > 1], "weight_decay": 1e-2},
            {"params": [x for x in parameters if x.ndim < 2], "weight_decay": 30.0 * on_biases},
        ]
        return AdamW(groups, lr)

    return make


@fault(BIAS, "bias_regularised over_regularised", "mlp-friedman gru-waves", given=decayed)
def weight_decay_on_biases(p: Program) -> Places:
    p.optimizer = _decay(on_biases=True)
    return ("*bias*", "*fc*", "*head*", "*rnn*", "")


def equal_rates(p: Program) -> None:
    """Use Adam with one group for the weights and one for the biases."""
    p.optimizer, p.lr = _bias_rate(1.0), 2e-3


def _bias_rate(factor: float) -> Callable[[Any, float], Optimizer]:
    def make(parameters: Any, lr: float) -> Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": [x for x in parameters if x.ndim > 1]},
            {"params": [x for x in parameters if x.ndim < 2], "lr": factor * lr},
        ]
        return Adam(groups, lr)

    return make


@fault(
    BIAS, "bias_drift learning_rate_too_high dead_relu", "mlp-digits tanh-rings", given=equal_rates
)
def bias_rate_times_thousand(p: Program) -> Places:
    p.optimizer = _bias_rate(1000.0)
    return ("*fc*", "*conv*", "*head*", "*act*", "*bias*")


def imbalanced(p: Program) -> None:
    """Keep all samples of class 0 and 3 % of the others; plain SGD."""
    keep = (p.data.y == 0) | (torch.arange(len(p.data.y)) % 33 == 0)
    p.data = replace(p.data, x=p.data.x[keep], y=p.data.y[keep])
    p.optimizer, p.lr = SGD, 0.1
    p.sample = _balanced


def _balanced(p: Program, _: int, generator: torch.Generator) -> Tensor:
    weights = 1.0 / torch.bincount(p.data.y).clamp_min(1)[p.data.y]
    return torch.multinomial(weights, p.batch_size, replacement=True, generator=generator)


@fault(
    BIAS,
    "bias_drift class_collapse class_imbalance output_bias_prior",
    "mlp-digits resmlp-clusters",
    given=imbalanced,
)
def imbalance_without_weights(p: Program) -> Places:
    p.sample = lambda p, _, g: torch.randint(len(p.data.x), (p.batch_size,), generator=g)
    return (*places_of([output_layer(p.model)[0]]), "")


def offset(p: Program) -> None:
    """Targets with mean 4, as in the twin."""
    p.with_targets(lambda y: y + 4)


@fault(
    BIAS, "target_not_scaled bias_drift loss_plateau", "mlp-quadratic mlp-friedman", given=offset
)
def no_biases_at_all(p: Program) -> None:
    for _, layer in weight_layers(p.model):
        layer.bias = None
