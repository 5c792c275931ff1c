"""First weights, biases and signal paths of the unseen programs that are wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detection.case import Class, Places
from detection.faults.flow import VANISHING
from detection.faults.initialisation import TOO_LARGE, TOO_SMALL
from detection.faults.optimizer import LOW
from detection.faults.register import fault
from detection.program import Program, append, around, output_layer, places_of, weight_layers
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

INIT, BIAS, FLOW = Class.INITIALISATION, Class.BIAS, Class.FLOW


def every_layer(p: Program) -> Places:
    """Return the places of all linear and convolution layers, and the run."""
    return (*places_of(name for name, _ in weight_layers(p.model)), "")


# Initialisation.


@fault(INIT, "symmetric_init no_gradient no_signal no_learning", f"{SALES} {PATIENTS}")
def weights_left_at_torch_zeros(p: Program) -> Places:
    for _, layer in weight_layers(p.model):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return every_layer(p)


@fault(INIT, "symmetric_init", f"{PENDULUMS} {CHIRPS}")
def every_weight_is_a_tenth(p: Program) -> Places:
    for _, layer in weight_layers(p.model):
        nn.init.constant_(layer.weight, 0.1)
    return every_layer(p)


@fault(
    INIT,
    f"{TOO_LARGE} saturated_activation init_activation_mismatch",
    f"{SALES} {PHOTO}",
)
def torch_randn_as_weights(p: Program) -> Places:
    for _, layer in weight_layers(p.model):
        nn.init.normal_(layer.weight)
    return every_layer(p)


@fault(INIT, f"{TOO_SMALL} {LOW}", f"{PHOTO} {PATIENTS}")
def weights_with_a_deviation_of_one_in_a_thousand(p: Program) -> Places:
    for _, layer in weight_layers(p.model):
        nn.init.normal_(layer.weight, std=1e-3)
        nn.init.zeros_(layer.bias)
    return every_layer(p)


@fault(
    INIT,
    f"{TOO_SMALL} no_gradient no_signal symmetric_init dead_relu no_learning",
    f"{SOLIDS} {CLAIMS} {RECIPES}",
)
def zeros_for_every_vector_also_those_of_the_norms(p: Program) -> Places:
    # for w in model.parameters(): xavier if w.dim() > 1 else zeros.
    for weight in p.model.parameters():
        if weight.ndim > 1:
            nn.init.xavier_uniform_(weight)
        else:
            nn.init.zeros_(weight)
    return ("*norm*", "*bn*", "*ln*", "features*", "blocks*", "layers*", "")


@fault(INIT, "initial_loss_anomaly init_scale_too_large exploding_gradient", RECIPES)
def tied_embedding_with_the_default_deviation(p: Program) -> Places:
    # nn.Embedding starts with N(0, 1); as output weights that is far too large.
    nn.init.normal_(p.model.tokens.weight, std=4.0)
    return ("tokens*", "decoder*", "")


@fault(INIT, f"{TOO_LARGE} saturated_activation", f"{QUERIES} {SOLIDS}")
def head_drawn_from_zero_to_thirty(p: Program) -> Places:
    name, layer = output_layer(p.model)
    nn.init.uniform_(layer.weight, 0.0, 30.0)
    return (*around(name), "")


# Biases.


@fault(BIAS, "initial_loss_anomaly output_bias_prior bias_drift no_learning", CHIRPS)
def bias_of_a_rare_event_with_the_wrong_sign(p: Program) -> Places:
    # −log((1 − π) / π) without its sign, for π of one in a million.
    name, layer = output_layer(p.model)
    nn.init.constant_(layer.bias, 13.8)
    return (*around(name), "")


@fault(
    BIAS,
    "initial_loss_anomaly output_bias_prior bias_drift exploding_gradient loss_spike "
    "non_finite_value",
    CLAIMS,
)
def bias_of_the_mean_and_not_of_its_logarithm(p: Program) -> Places:
    nn.init.constant_(p.model.head.bias, 20.0)
    return (*around("head"), "")


@fault(BIAS, "dead_relu bias_drift no_gradient no_signal vanishing_gradient", f"{SALES} {SOLIDS}")
def biases_of_minus_five(p: Program) -> Places:
    for name, layer in weight_layers(p.model):
        if name.endswith(("fc", "fc1", "fc2")):
            nn.init.constant_(layer.bias, -5.0)
    return ("*fc*", "*relu*", "")


@fault(BIAS, f"saturated_activation {VANISHING}", PENDULUMS)
def biases_drawn_from_the_wide_distribution_of_the_weights(p: Program) -> Places:
    for layer in (p.model.field.fc1, p.model.field.fc2):
        nn.init.normal_(layer.bias, std=12.0)
    return ("field*", "")


@fault(
    BIAS,
    f"bias_drift target_not_scaled initial_loss_anomaly {LOW}",
    f"{SALES} {PHOTO}",
)
def targets_with_an_offset_of_fifty(p: Program) -> None:
    p.with_targets(lambda y: y + 50)


@fault(BIAS, "parameter_not_updated no_gradient bias_drift output_bias_prior", CHIRPS)
def frozen_bias_of_the_classifier(p: Program) -> Places:
    nn.init.constant_(p.model.classifier.bias, 4.0)
    p.model.classifier.bias.requires_grad_(False)
    return (*around("classifier"), "")


@fault(
    BIAS,
    "learning_rate_too_high bias_drift loss_oscillation loss_divergence loss_spike",
    f"{QUERIES} {CLAIMS}",
)
def biases_with_a_rate_of_three(p: Program) -> Places:
    def groups(model: nn.Module) -> list[dict[str, object]]:
        biases = [w for n, w in model.named_parameters() if n.endswith("bias")]
        others = [w for n, w in model.named_parameters() if not n.endswith("bias")]
        return [{"params": biases, "lr": 3.0}, {"params": others}]

    p.parameters = groups
    return ("*bias", "*")


# Flow.


class Times(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


@fault(
    FLOW, f"{VANISHING} {LOW} saturated_activation loss_plateau", f"{PATIENTS} {SALES} {QUERIES}"
)
def eight_sigmoid_layers_more(p: Program) -> Places:
    names = [n for n, _ in p.model.named_modules() if n.endswith(("elu2", "relu2", "act1"))]
    width = 48 if isinstance(p.model, models.Nbeats) else 32
    for name in names:
        deep: list[nn.Module] = []
        for _ in range(8):
            deep += [nn.Linear(width, width), nn.Sigmoid()]
        append(p.model, name, nn.Sequential(*deep))
    return (*(f"{name}*" for name in names), "*fc*", "embed*", "")


@fault(
    FLOW,
    f"output_range_mismatch {TOO_SMALL} {LOW} loss_plateau",
    f"{PHOTO} {SOLIDS}",
)
def output_divided_by_255(p: Program) -> Places:
    for name, _ in weight_layers(p.model):
        if name.endswith(("conv3", "forecast", "classifier")) and "features" not in name:
            append(p.model, name, Times(1 / 255))
    return ("*conv3*", "*forecast*", "classifier*", "")


@fault(FLOW, "attention_logit_growth vanishing_gradient loss_plateau no_learning", RECIPES)
def attention_multiplied_by_the_scale(p: Program) -> Places:
    # q @ k is multiplied by the width of a model of 512 instead of divided by its root.
    for layer in p.model.layers:
        layer.attend = unscaled
    return ("layers*", "")


def unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with scores that are far too large."""
    return (512.0 * q @ k.transpose(-2, -1)).softmax(-1) @ v


@fault(
    FLOW,
    "exploding_gradient init_scale_too_large non_finite_value loss_plateau initial_loss_anomaly "
    "saturated_activation",
    PENDULUMS,
)
def time_step_in_milliseconds(p: Program) -> Places:
    p.model.part = 300.0
    return ("field*", "")


@fault(FLOW, f"output_range_mismatch dead_relu {VANISHING} no_signal", f"{CLAIMS} {SOLIDS}")
def relu_after_a_lowered_head(p: Program) -> Places:
    name, layer = output_layer(p.model)
    nn.init.constant_(layer.bias, -1.0)
    append(p.model, name, nn.ReLU())
    return (*around(name), "")


@fault(FLOW, "saturated_activation vanishing_gradient no_learning loss_plateau", CHIRPS)
def logits_through_a_saturated_tanh(p: Program) -> Places:
    nn.init.normal_(p.model.classifier.weight, std=20.0)
    append(p.model, "classifier", nn.Tanh())
    return ("classifier*", "")


@fault(FLOW, f"{VANISHING} {LOW} loss_plateau", CHIRPS)
def features_times_one_in_a_million(p: Program) -> Places:
    append(p.model, "cnn", Times(1e-6))
    return ("cnn*", "gru*", "")


@fault(FLOW, f"saturated_activation {VANISHING} loss_plateau", QUERIES)
def scores_between_zero_and_one(p: Program) -> Places:
    # A sigmoid for probabilities, and a softmax over them in the loss.
    with torch.no_grad():
        p.model.score.weight.mul_(60)
    append(p.model, "score", nn.Sigmoid())
    return ("score*", "")
