"""Wrong connections and first weights in the programs of the fourth part."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection import models as common
from detection.case import Class, Places
from detection.faults.flow import VANISHING
from detection.faults.initialisation import TOO_LARGE
from detection.faults.register import fault
from detection.faults.wiring import NOT_TRAINED, Detach
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
from detection.fourth_part.programs import DetectionLoss, GaussianLoss, SequenceLoss
from detection.program import Program, append, around, output_layer, places_of, weight_layers

WIRING, INIT, BIAS, FLOW = Class.WIRING, Class.INITIALISATION, Class.BIAS, Class.FLOW
EMBEDDINGS: Places = ("embedding*", "factors*", "weights*", "decoder*", "deep*", "")


# Wiring.


@fault(WIRING, NOT_TRAINED, CLICKS)
def embeddings_left_to_another_optimizer(p: Program) -> Places:
    # Sparse embeddings need their own optimizer, which is never created.
    parts = ("weights.", "factors.")
    p.parameters = lambda model: [w for n, w in model.named_parameters() if not n.startswith(parts)]
    return ("weights*", "factors*")


@fault(WIRING, f"{NOT_TRAINED} constant_or_duplicate_input loss_plateau", DIFFUSION)
def the_time_is_not_given_to_the_network(p: Program) -> Places:
    p.model.waves = lambda time: torch.zeros(len(time), 16)
    return ("time_fc*", "time_act*", "*time*", "")


@fault(WIRING, NOT_TRAINED, f"{DETECTOR} {SIAMESE}")
def features_detached_before_the_heads(p: Program) -> Places:
    # Written for a pretrained backbone, but this one is new.
    name = "backbone" if hasattr(p.model, "backbone") else "encoder"
    append(p.model, name, Detach())
    return around(name)


class DetachedVariance(GaussianLoss):
    """The variance is computed without a graph."""

    def variance(self, logarithm: Tensor) -> Tensor:
        return super().variance(logarithm).detach()


@fault(WIRING, "loss_term_inactive no_gradient loss_task_mismatch", WIND)
def the_variance_has_no_gradient(p: Program) -> Places:
    p.loss = DetachedVariance()
    return (*around("head"), "")


class KindDetached(DetectionLoss):
    """Only the box reaches the weights; the class term is in the sum that is logged."""

    def kind(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().kind(logits, target).detach()


@fault(WIRING, f"loss_term_inactive {NOT_TRAINED}", DETECTOR)
def gradients_zeroed_between_two_backward_passes(p: Program) -> Places:
    p.loss = KindDetached()
    return (*around("classes"), *around("kind"), "")


# Initialisation.


@fault(INIT, TOO_LARGE, f"{CLICKS} {MELODIES}")
def embeddings_with_a_deviation_of_three(p: Program) -> Places:
    for module in p.model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=3.0)
    return EMBEDDINGS


@fault(INIT, "symmetric_init", f"{SIAMESE} {STRIPS}")
def every_unit_is_a_copy_of_the_first(p: Program) -> Places:
    # A custom initialisation draws one row and expands it.
    with torch.no_grad():
        for _, layer in weight_layers(p.model):
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight).clone())
            if layer.bias is not None:
                layer.bias.zero_()
    return (*places_of(name for name, _ in weight_layers(p.model)), "")


@fault(
    INIT, "saturated_activation init_scale_too_large exploding_gradient initial_loss_anomaly", PLATE
)
def first_layer_times_a_hundred(p: Program) -> Places:
    with torch.no_grad():
        p.model.net.fc0.weight.mul_(100)
    return ("net.fc0*", "net.act0*", "")


@fault(INIT, "symmetric_init no_gradient no_signal", DIFFUSION)
def both_layers_of_each_branch_start_at_zero(p: Program) -> Places:
    # Zeros in the last layer of a branch are usual; with zeros before it, neither has a gradient.
    for block in p.model.blocks:
        for layer in (block.fc0, block.time, block.fc1):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        block.act1 = nn.Tanh()
    return around("blocks")


# Biases.


@fault(
    BIAS, "initial_loss_anomaly output_bias_prior exploding_gradient bias_drift loss_spike", WIND
)
def logarithm_of_the_variance_starts_at_minus_twelve(p: Program) -> Places:
    with torch.no_grad():
        p.model.head.bias[1] = -12.0
    return (*around("head"), "")


@fault(BIAS, "saturated_activation vanishing_gradient init_scale_too_small no_learning", MELODIES)
def input_gates_closed_by_their_biases(p: Program) -> Places:
    with torch.no_grad():
        for name, weight in p.model.rnn.named_parameters():
            if name.startswith("bias_ih"):
                weight[: len(weight) // 4] = -15.0
    return (*around("rnn"), "")


@fault(BIAS, "initial_loss_anomaly output_bias_prior class_collapse", STRIPS)
def the_blank_starts_with_a_bias_of_fifty(p: Program) -> Places:
    with torch.no_grad():
        p.model.head.bias[0] = 50.0
    return (*around("head"), "")


@fault(BIAS, "initial_loss_anomaly output_bias_prior no_signal", CLICKS)
def bias_of_the_click_rate_in_percent(p: Program) -> Places:
    # The rate in percent is written into the bias of a logit.
    name, layer = output_layer(p.model)
    nn.init.constant_(layer.bias, 100 * float(p.data.y.mean()))
    return (*around(name), "")


# Flow.


@fault(
    FLOW,
    "loss_term_inactive no_gradient missing_nonlinearity loss_plateau no_learning",
    PLATE,
)
def relu_has_no_second_derivative(p: Program) -> Places:
    p.model.net.act0, p.model.net.act1 = nn.ReLU(), nn.ReLU()
    return ("net.act*", "net", "inside*", "")


@fault(FLOW, f"{VANISHING} loss_plateau no_learning", PLATE)
def a_deep_field_with_small_weights(p: Program) -> Places:
    net = common.mlp(2, *[24] * 7, 1, activation=nn.Tanh)
    for _, layer in weight_layers(net):
        nn.init.normal_(layer.weight, std=0.03)
    p.model.net = net
    return ("net*", "")


@fault(FLOW, f"{VANISHING} saturated_activation loss_plateau no_learning", f"{WIND} {DETECTOR}")
def six_sigmoid_layers_before_the_heads(p: Program) -> Places:
    name = "act1" if isinstance(p.model, nn.Sequential) else "act_fc"
    deep: list[nn.Module] = []
    for _ in range(6):
        deep += [nn.Linear(48, 48), nn.Sigmoid()]
    append(p.model, name, nn.Sequential(*deep))
    return ("*fc*", "*act*", "*conv*", "")


class ColdScores(SequenceLoss):
    """The scores are divided by a temperature of 1000."""

    def scores(self, output: Tensor) -> Tensor:
        return super().scores(output / 1000)


@fault(
    FLOW,
    "init_scale_too_small vanishing_gradient learning_rate_too_low no_learning loss_plateau",
    STRIPS,
)
def scores_divided_by_a_thousand(p: Program) -> Places:
    p.loss = ColdScores()
    return (*around("head"), "")


@fault(
    FLOW,
    "saturated_activation vanishing_gradient no_gradient no_signal no_learning",
    SIAMESE,
)
def embeddings_pass_a_saturated_tanh(p: Program) -> Places:
    append(p.model, "embed", Steep())
    return ("embed*", "encoder*", "")


class Steep(nn.Module):
    """A tanh of a thousandfold input, as a soft sign."""

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(1000 * x)
