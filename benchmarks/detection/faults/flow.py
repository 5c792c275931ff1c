"""Flow: signal or gradient vanishes, explodes or stops on its way through the layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detection import models
from detection.case import Class, Places
from detection.faults.register import fault
from detection.program import (
    Program,
    activation_after,
    hidden_layers,
    output_layer,
    places_of,
    put,
    swap,
    weight_layers,
)

FLOW = Class.FLOW
VANISHING = "vanishing_gradient init_scale_too_small init_activation_mismatch"
EVERY_LAYER = ("*fc*", "*conv*", "*act*", "")


def deep(p: Program) -> None:
    """Replace the model by ten ReLU layers with He initialisation, trained by Adam."""
    inputs, outputs = p.data.x.shape[1], output_layer(p.model)[1].out_features
    p.model = models.mlp(inputs, *[32] * 10, outputs, he=True)
    p.optimizer, p.lr = torch.optim.Adam, 1e-3


@fault(
    FLOW,
    VANISHING + " saturated_activation",
    "deep-digits resmlp-clusters",
    given=deep,
)
def ten_sigmoid_layers(p: Program) -> Places:
    swap(p.model, nn.ReLU, nn.Sigmoid)
    for _, layer in weight_layers(p.model):
        layer.reset_parameters()
    return EVERY_LAYER


@fault(
    FLOW,
    "saturated_activation init_scale_too_large",
    "mlp-friedman tanh-rings",
    given=deep,
)
def saturated_tanh_layers(p: Program) -> Places:
    swap(p.model, nn.ReLU, nn.Tanh)
    for _, layer in hidden_layers(p.model):
        with torch.no_grad():
            layer.weight.mul_(6)
    return EVERY_LAYER


@fault(
    FLOW,
    "exploding_gradient init_scale_too_large initial_loss_anomaly",
    "deep-digits mlp-quadratic",
    given=deep,
)
def gain_of_three_in_ten_layers(p: Program) -> Places:
    with torch.no_grad():
        for _, layer in hidden_layers(p.model):
            layer.weight.mul_(3)
    return EVERY_LAYER


class Squeeze(nn.Module):
    """Divides by a constant, as a forgotten temperature does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1e-3


@fault(FLOW, VANISHING, "deep-digits mlp-quadratic")
def one_activation_times_a_thousandth(p: Program) -> Places:
    name = hidden_layers(p.model)[1][0]
    act = activation_after(p.model, name)
    put(p.model, act, nn.Sequential(p.model.get_submodule(act), Squeeze()))
    return (*places_of([name, act]), hidden_layers(p.model)[0][0], "")


def plain_rnn(p: Program) -> list[Tensor]:
    """Replace the LSTM or GRU by a tanh RNN of its sizes; return the recurrent matrices."""
    old = p.model.rnn
    assert isinstance(old, nn.RNNBase)
    rnn = nn.RNN(old.input_size, old.hidden_size, batch_first=True, bidirectional=old.bidirectional)
    p.model.rnn = rnn
    return [w for name, w in rnn.named_parameters() if name.startswith("weight_hh")]


@fault(FLOW, "vanishing_gradient init_scale_too_small", "lstm-cue")
def plain_rnn_with_small_recurrence(p: Program) -> Places:
    for weight in plain_rnn(p):
        nn.init.normal_(weight, std=0.01)
    return ("rnn", "rnn.*")


@fault(FLOW, "exploding_gradient init_scale_too_large saturated_activation", "lstm-cue gru-waves")
def plain_rnn_with_gain_of_four(p: Program) -> Places:
    for weight in plain_rnn(p):
        nn.init.orthogonal_(weight, gain=4)
    return ("rnn", "rnn.*")


def plain_sgd(p: Program) -> None:
    """Use plain SGD, where the step is proportional to the gradient."""
    p.optimizer, p.lr = torch.optim.SGD, 0.05


@fault(
    FLOW,
    "dead_relu learning_rate_too_high",
    "deep-digits mlp-quadratic",
    given=plain_sgd,
    onset=60,
)
def a_large_step_kills_the_relus(p: Program) -> Places:
    # One batch with a loss times 1e3 under plain SGD, as a corrupted batch gives.
    inner = p.loss

    def event(step: int, program: Program, _: object) -> None:
        if step in (59, 60):
            program.loss = (lambda o, y: 1e3 * inner(o, y)) if step == 59 else inner

    p.events.append(event)
    return EVERY_LAYER


@fault(
    FLOW, "attention_logit_growth saturated_activation init_scale_too_large", "transformer-chain"
)
def attention_logits_times_10000(p: Program) -> Places:
    with torch.no_grad():
        for name, weight in p.model.named_parameters():
            if name.endswith(("qkv.weight", "in_proj_weight")):
                weight[: 2 * weight.shape[1]].mul_(100)  # queries and keys: 100² on their product
    return ("*attention*", "*self_attn*")


@fault(FLOW, "dead_relu init_scale_too_small vanishing_gradient", "mlp-digits mlp-quadratic")
def shift_before_a_relu(p: Program) -> Places:
    # The inputs of the second ReLU are shifted by −8: a wrong constant in a custom layer.
    name = hidden_layers(p.model)[1][0]
    places = (*places_of([name]), activation_after(p.model, name))
    put(p.model, name, nn.Sequential(p.model.get_submodule(name), Shift()))
    return places


class Shift(nn.Module):
    """Subtracts a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 8
