"""Initialise a model again: each layer by its fans and by the nonlinearity that follows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from trainvitals.remedies.plan import Plan, Row
from trainvitals.remedies.priors import Values, head_bias
from trainvitals.remedies.running import cuda_devices
from trainvitals.remedies.strategies import Draw, automatic, checked_parameters, draw_of, fill
from trainvitals.remedies.surroundings import Surroundings, surroundings_of
from trainvitals.structure.fans import Fans, fans_of, gates_of
from trainvitals.structure.parameters import (
    EMBEDDINGS,
    NORMS,
    RECURRENT,
    Parameter,
    parameters_of,
    reason_not_measured,
)

LEFT: Final = "left"
_RESIDUAL_NAMES: Final = ("c_proj",)
"""Last layers of the residual branches of GPT-2 and the models made after it."""
_LORA_ZERO: Final = ("lora_b", "lora_embedding_b")


@dataclass(frozen=True)
class _Decision:
    """What happens to one parameter; `new` is None for one that is left alone."""

    new: Draw | Tensor | None
    reason: str
    strategy: str = LEFT
    fans: Fans | None = None
    nonlinearity: str = ""
    fixed: tuple[slice, float] | None = None
    """Rows that get one value: the forget gate's biases, an embedding's padding."""


def initialise(
    model: nn.Module,
    strategy: str = "auto",
    *,
    dry_run: bool = False,
    head: str | nn.Module | None = None,
    targets: Tensor | None = None,
    class_prior: Values | None = None,
    generator: torch.Generator | None = None,
    **parameters: float | str,
) -> Plan:
    """Initialise the weights and biases of `model` in place and return what was done.

    "auto" takes He initialisation before rectifiers, Xavier with gain 5/3 before tanh, LeCun before
    SELU, and Xavier with gain 1 otherwise and for the head; recurrent weights become orthogonal,
    biases 0, an LSTM's forget bias 1. The last layers of residual branches are scaled by 1/√(number
    of branches), as in GPT-2. Norms, embeddings, frozen and parametrised tensors and branches that
    start at zero (LoRA B) are left alone. Each other strategy is applied to every weight of a
    linear, convolutional, recurrent or attention layer; docs/remedies.md lists their parameters.

    `dry_run` changes nothing, the random state included, and returns the same numbers as the call
    without it. `head` is the output layer, or its name; found if there is one. `targets` or
    `class_prior` set its bias; see `priors.head_bias`. `generator` replaces the global generator.
    New values are computed first and copied last: at that time both are in memory.

    Raises TypeError or ValueError for a bad argument, before anything is changed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not a {type(model).__name__}.")
    given = checked_parameters(strategy, parameters)
    decisions = _Decisions(model, strategy, given).all()
    if targets is not None or class_prior is not None:
        bias, prior = _head_bias(model, head, targets, class_prior)
        decisions[id(bias)] = _Decision(prior, "from the targets' distribution", "prior")
    elif head is not None:
        _head_of(model, head)
    rows: list[Row] = []
    new: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), _random_state(model, generator, restore=dry_run):
        for parameter in parameters_of({"": model}).values():
            decision = decisions[id(parameter.tensor)]
            values = _values(decision, parameter.tensor, generator)
            rows.append(_row(parameter, decision, values))
            if values is not None and not dry_run:
                new.append((parameter.tensor, values))
        for tensor, filled in new:
            tensor.copy_(filled)
    return Plan(tuple(rows), applied=not dry_run)


class _Decisions:
    """Decides for each parameter of a model."""

    def __init__(self, model: nn.Module, strategy: str, given: dict[str, Any]) -> None:
        self._strategy = strategy
        self._given = given
        self._modules = dict(model.named_modules())
        self._places = surroundings_of(model)
        self._parameters = parameters_of({"": model}).values()
        self._branches = sum(self._ends_branch(p) and _is_weight(p) for p in self._parameters)

    def all(self) -> dict[int, _Decision]:
        """Return id(tensor) → decision."""
        return {id(p.tensor): self._of(p) for p in self._parameters}

    def _of(self, parameter: Parameter) -> _Decision:
        tensor, owner = parameter.tensor, parameter.owner
        name = parameter.name.rpartition(".")[2]
        if reason := reason_not_measured(tensor):
            return _Decision(None, reason)
        if not tensor.requires_grad:
            return _Decision(None, "frozen")
        if tensor.is_inference():
            return _Decision(None, "created in inference mode")
        owners = [owner, *(self._modules[alias.rpartition(".")[0]] for alias in parameter.aliases)]
        if any(isinstance(module, EMBEDDINGS) for module in owners):
            return self._embedding(parameter, owners)
        if isinstance(owner, NORMS):
            return _Decision(None, "norm")
        if isinstance(owner, nn.utils.parametrize.ParametrizationList):
            return _Decision(None, "parametrised")
        if tensor.numel() == 0:
            return _Decision(None, "empty")
        fans = fans_of(owner, name, tensor)
        if fans is not None:
            return self._weight(parameter, fans)
        if self._is_bias(parameter, name):
            return self._bias(parameter, name)
        return _Decision(None, f"no rule for {name!r} of {type(owner).__name__}")

    def _embedding(self, parameter: Parameter, owners: list[Any]) -> _Decision:
        padding = next((m.padding_idx for m in owners if hasattr(m, "padding_idx")), None)
        if self._strategy != "gpt2":
            return _Decision(None, "embedding" + (" (tied)" if parameter.aliases else ""))
        draw = Draw("gpt2", "normal", self._given["std"])
        fixed = None if padding is None else (slice(padding, padding + 1), 0.0)
        return _Decision(draw, "embedding", "gpt2", fixed=fixed)

    def _weight(self, parameter: Parameter, fans: Fans) -> _Decision:
        place = self._place(parameter)
        if self._strategy == "torch_default":
            return _torch_default_weight(parameter, fans, place)
        strategy, reason = self._strategy, _before(place)
        if strategy == "auto":
            if self._starts_at_zero(parameter):
                return _Decision(None, "branch that starts at zero", fans=fans)
            if isinstance(parameter.owner, RECURRENT):
                strategy, reason = _recurrent(parameter.name.rpartition(".")[2])
                place = Surroundings()
            else:
                strategy = automatic(place)
        draw = draw_of(strategy, fans, place, self._given)
        if self._strategy in ("auto", "gpt2") and self._ends_branch(parameter):
            draw = replace(draw, scale=draw.scale / math.sqrt(self._branches))
            reason = f"end of a residual branch: × 1/√{self._branches}"
        if parameter.aliases:
            reason += f"; tied with {', '.join(parameter.aliases)}"
        return _Decision(draw, reason, strategy, fans, place.nonlinearity)

    def _bias(self, parameter: Parameter, name: str) -> _Decision:
        owner = parameter.owner
        if self._strategy == "torch_default":
            return _torch_default_bias(parameter)
        fixed = None
        is_lstm = isinstance(owner, RECURRENT) and gates_of(owner) == 4
        # bias_hh is added to bias_ih: only one of them may be 1.
        if self._strategy == "auto" and is_lstm and name.startswith("bias_ih"):
            size = parameter.tensor.shape[0] // 4
            fixed = (slice(size, 2 * size), 1.0)
        reason = "bias" if fixed is None else "bias; 1 for the forget gate"
        return _Decision(Draw("zeros", "constant", 0.0), reason, "zeros", fixed=fixed)

    def _is_bias(self, parameter: Parameter, name: str) -> bool:
        owner = parameter.owner
        if isinstance(owner, RECURRENT):
            return name.startswith("bias")
        if isinstance(owner, nn.MultiheadAttention):
            return name == "in_proj_bias"
        return name == "bias" and _is_layer(owner)

    def _place(self, parameter: Parameter) -> Surroundings:
        place = self._places.get(parameter.module, Surroundings())
        assumed = self._given.get("nonlinearity")
        is_inside = isinstance(parameter.owner, (*RECURRENT, nn.MultiheadAttention))
        if assumed and not place.nonlinearity and not place.is_output and not is_inside:
            return replace(place, nonlinearity=str(assumed))
        return place

    def _ends_branch(self, parameter: Parameter) -> bool:
        place = self._places.get(parameter.module)
        last = parameter.module.rpartition(".")[2]
        return (place is not None and place.ends_branch) or last in _RESIDUAL_NAMES

    def _starts_at_zero(self, parameter: Parameter) -> bool:
        if bool(parameter.tensor.detach().any()):
            return False
        is_lora = any(part in _LORA_ZERO for part in parameter.name.lower().split("."))
        return is_lora or self._ends_branch(parameter)


def _recurrent(name: str) -> tuple[str, str]:
    if name.startswith("weight_hh"):
        return "orthogonal", "hidden weights"
    return "xavier_normal", "projection" if name.startswith("weight_hr") else "input weights"


def _is_weight(parameter: Parameter) -> bool:
    name = parameter.name.rpartition(".")[2]
    return name == "weight" and parameter.tensor.requires_grad


def _before(place: Surroundings) -> str:
    if place.nonlinearity:
        return f"before {place.nonlinearity}"
    return "head" if place.is_output else "no nonlinearity found after it"


def _torch_default_weight(parameter: Parameter, fans: Fans, place: Surroundings) -> _Decision:
    """Return what `reset_parameters` of the layer does."""
    tensor, owner = parameter.tensor, parameter.owner
    shape_in, shape_out = nn.init._calculate_fan_in_and_fan_out(tensor)
    bound = 1 / math.sqrt(shape_in)
    if isinstance(owner, RECURRENT):
        bound = 1 / math.sqrt(_hidden_size(owner))
    elif isinstance(owner, nn.MultiheadAttention):
        bound = math.sqrt(6 / (shape_in + shape_out))
    draw = Draw("torch_default", "uniform", bound)
    return _Decision(draw, "as a new layer", "torch_default", fans, place.nonlinearity)


def _torch_default_bias(parameter: Parameter) -> _Decision:
    owner: Any = parameter.owner
    if isinstance(owner, (nn.MultiheadAttention, NonDynamicallyQuantizableLinear)):
        return _Decision(Draw("zeros", "constant", 0.0), "as a new layer", "zeros")
    if isinstance(owner, RECURRENT):
        bound = 1 / math.sqrt(_hidden_size(owner))
    else:
        bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(owner.weight)[0])
    draw = Draw("torch_default", "uniform", bound)
    return _Decision(draw, "as a new layer", "torch_default")


def _hidden_size(module: Any) -> int:
    return int(module.hidden_size)


def _head_of(model: nn.Module, head: str | nn.Module | None) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if isinstance(head, nn.Module):
        if all(module is not head for module in modules.values()):
            raise ValueError("head is not a module of the model.")
        return head
    if head is not None:
        if head not in modules:
            raise ValueError(f"The model has no module {head!r} that could be the head.")
        return modules[head]
    found = [
        name
        for name, place in surroundings_of(model).items()
        if place.is_output and _is_layer(modules[name])
    ]
    if len(found) != 1:
        raise ValueError(
            f"The model has {len(found)} layers that may be its head ({', '.join(found)}); "
            "name it: initialise(model, head='…')."
        )
    return modules[found[0]]


def _is_layer(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and fans_of(module, "weight", weight) is not None


def _head_bias(
    model: nn.Module, head: str | nn.Module | None, targets: Tensor | None, prior: Values | None
) -> tuple[nn.Parameter, Tensor]:
    module = _head_of(model, head)
    bias = getattr(module, "bias", None)
    if not isinstance(bias, nn.Parameter) or reason_not_measured(bias):
        raise ValueError(f"The head, {type(module).__name__}, has no bias that could be set.")
    if not bias.requires_grad:
        raise ValueError("The bias of the head is frozen.")
    return bias, head_bias(bias.numel(), targets, prior)


def _values(
    decision: _Decision, tensor: Tensor, generator: torch.Generator | None
) -> Tensor | None:
    if decision.new is None:
        return None
    if isinstance(decision.new, Tensor):
        values = decision.new.reshape(tensor.shape)
    else:
        values = fill(decision.new, tensor, generator)
    if decision.fixed is not None:
        rows, value = decision.fixed
        values[rows] = value
    return values.to(tensor.device, tensor.dtype)


def _row(parameter: Parameter, decision: _Decision, values: Tensor | None) -> Row:
    fans = decision.fans
    before = _std(parameter.tensor)
    return Row(
        parameter.name,
        type(parameter.owner).__name__,
        fans.fan_in if fans else None,
        fans.fan_out if fans else None,
        decision.nonlinearity,
        decision.strategy,
        before,
        before if values is None else _std(values),
        decision.reason,
    )


def _std(tensor: Tensor) -> float | None:
    if reason_not_measured(tensor) or tensor.numel() == 0:
        return None
    return float(tensor.detach().double().std(correction=0))


@contextmanager
def _random_state(
    model: nn.Module, generator: torch.Generator | None, *, restore: bool
) -> Iterator[None]:
    """Restore the random state at the end if `restore` is set."""
    if not restore:
        yield
    elif generator is not None:
        state = generator.get_state()
        try:
            yield
        finally:
            generator.set_state(state)
    else:
        with torch.random.fork_rng(devices=cuda_devices(model)):
            yield
