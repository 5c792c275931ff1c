"""Modules and first weights of the third part that are connected or set wrongly."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from detection.case import Class, Places
from detection.faults.flow import VANISHING
from detection.faults.initialisation import TOO_LARGE
from detection.faults.optimizer import LOW
from detection.faults.register import fault
from detection.faults.wiring import NOT_TRAINED
from detection.program import (
    Program,
    around,
    hidden_layers,
    output_layer,
    places_of,
    put,
    weight_layers,
)
from detection.third_part import models
from detection.third_part.mapping import (
    COUNTER,
    DECODER,
    GRAPH,
    GRID,
    MIXER,
    SCENES,
    TOWERS,
    WAVENET,
)

WIRING, INIT, BIAS, FLOW = Class.WIRING, Class.INITIALISATION, Class.BIAS, Class.FLOW


# Wiring.


@fault(WIRING, f"{NOT_TRAINED} no_learning loss_plateau", f"{MIXER} {WAVENET}")
def blocks_in_a_python_list(p: Program) -> Places:
    # Not an nn.ModuleList: parameters() does not find the blocks.
    blocks = [*p.model.blocks]
    del p.model.blocks
    p.model.__dict__["blocks"] = blocks
    return (*around("blocks"), "")


@fault(WIRING, NOT_TRAINED, SCENES, part="trunk", name="trunk_not_in_the_optimizer")
@fault(WIRING, NOT_TRAINED, TOWERS, part="item", name="item_tower_not_in_the_optimizer")
def part_not_in_the_optimizer(p: Program, part: str) -> Places:
    def parameters(model: nn.Module) -> list[Tensor]:
        return [w for n, w in model.named_parameters() if not n.startswith(f"{part}.")]

    p.parameters = parameters
    return around(part)


@fault(WIRING, NOT_TRAINED, f"{COUNTER} {SCENES} {GRAPH}")
def unfrozen_by_an_attribute_of_the_module(p: Program) -> Places:
    # module.requires_grad = True sets an attribute; requires_grad_(True) was meant.
    for _, layer in hidden_layers(p.model):
        layer.requires_grad_(False)
        layer.requires_grad = True  # type: ignore[assignment]
    return places_of(name for name, _ in hidden_layers(p.model))


@fault(WIRING, f"{NOT_TRAINED} no_signal no_learning", f"{DECODER} {GRID}")
def zero_grad_between_backward_and_step(p: Program) -> None:
    def register(_: Program, optimizer: Optimizer) -> None:
        optimizer.register_step_pre_hook(lambda o, *_: o.zero_grad(set_to_none=False))

    p.started.append(register)


@fault(WIRING, f"{NOT_TRAINED} {LOW}", SCENES)
def step_after_the_loop_over_the_batches(p: Program) -> None:
    # step() is indented to the loop over epochs, of 45 batches; zero_grad() is not.
    def rarely(_: Program, optimizer: Optimizer) -> None:
        step, calls = optimizer.step, iter(range(10**6))

        def each(*arguments: Any) -> Any:
            return step(*arguments) if next(calls) % 45 == 44 else None

        optimizer.step = each  # type: ignore[method-assign]

    p.started.append(rarely)


# Initialisation and biases.


@fault(INIT, f"{TOO_LARGE} symmetric_init", f"{SCENES} {GRAPH} {GRID}")
def uniform_init_from_zero_to_one(p: Program) -> Places:
    # nn.init.uniform_(weight) has these limits by default.
    for _, layer in weight_layers(p.model):
        nn.init.uniform_(layer.weight)
    return (*places_of(name for name, _ in weight_layers(p.model)), "")


@fault(
    INIT,
    "symmetric_init init_scale_too_small no_signal no_gradient vanishing_gradient no_learning",
    f"{MIXER} {COUNTER}",
)
def gains_of_the_norms_set_to_zero(p: Program) -> Places:
    # A loop that sets every one-dimensional parameter to 0, as if all were biases.
    norms = []
    for name, module in p.model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if "weight" in own and own["weight"].ndim == 1:
            nn.init.zeros_(own["weight"])
            norms.append(name)
    return (*places_of(norms), *places_of(name for name, _ in weight_layers(p.model)), "")


@fault(INIT, "init_scale_too_small vanishing_gradient", TOWERS)
def deviation_divided_by_the_number_of_inputs(p: Program) -> Places:
    # 1 / fan_in instead of its root.
    for _, layer in weight_layers(p.model):
        nn.init.normal_(layer.weight, std=1 / layer.weight[0].numel())
    return (*places_of(name for name, _ in weight_layers(p.model)), "")


@fault(BIAS, "saturated_activation vanishing_gradient init_scale_too_small", WAVENET)
def gates_closed_by_their_biases(p: Program) -> Places:
    for block in p.model.blocks:
        nn.init.constant_(block.gate.bias, -30.0)
    return ("*gate*", "*sigmoid*", "blocks*")


@fault(BIAS, "initial_loss_anomaly output_bias_prior bias_drift", COUNTER)
def head_bias_for_counts_of_thousands(p: Program) -> Places:
    # The bias of the log rate is the number itself and not its logarithm.
    name, layer = output_layer(p.model)
    nn.init.constant_(layer.bias, float(p.data.y.max()))
    return (*around(name), "")


@fault(BIAS, "dead_relu", GRAPH)
def biases_of_the_graph_layers_minus_ten(p: Program) -> Places:
    for _, layer in hidden_layers(p.model):
        nn.init.constant_(layer.bias, -10.0)  # type: ignore[arg-type]
    return ("fc0*", "act0*", "layers*")


# Flow.


@fault(FLOW, f"{VANISHING} loss_plateau no_learning", GRAPH)
def a_graph_network_of_twelve_layers(p: Program) -> Places:
    p.model = models.GraphNet(20, 8, 3, hidden=11)
    return ("fc0*", "act0*", "layers*", "")


@fault(FLOW, f"{VANISHING} saturated_activation", f"{TOWERS} {SCENES}")
def sigmoids_and_tiny_first_weights(p: Program) -> Places:
    for name, module in [*p.model.named_modules()]:
        if isinstance(module, nn.ReLU):
            put(p.model, name, nn.Sigmoid())
    for _, layer in hidden_layers(p.model):
        nn.init.normal_(layer.weight, std=0.01)
    return (*places_of(name for name, _ in weight_layers(p.model)), "*act*", "")


@fault(FLOW, "exploding_gradient init_scale_too_large initial_loss_anomaly", GRAPH)
def adjacency_summed_and_not_averaged(p: Program) -> Places:
    # The neighbours' features are added, with edges that are weighted by 30.
    p.model.normalised = lambda edges: 30 * edges
    return ("fc0*", "act0*", "layers*", "head*", "")


def without_the_last_norm(p: Program) -> None:
    """Leave out the norm before the head, as in the twin; it would undo a scale."""
    p.model.norm = nn.Identity()


@fault(FLOW, "init_scale_too_small vanishing_gradient", DECODER, given=without_the_last_norm)
def residual_stream_times_1e_4(p: Program) -> Places:
    # The scale of the branches is applied to the whole stream.
    for block in p.model.blocks:
        block.register_forward_hook(lambda _, __, y: 1e-4 * y)
    return ("blocks*", "norm*", "head*", "")
