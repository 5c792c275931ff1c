"""What follows each layer of a model, without data.

The model is traced symbolically (torch.fx), which sees functions such as `F.relu`, modules that are
used twice and additions. If that fails, for example because the forward pass depends on values, the
order in which the modules are registered is taken.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import fx, nn

from trainvitals.structure.order import ACTIVATIONS, SKIPPED, ForwardOrder
from trainvitals.structure.parameters import NORMS

_FUNCTIONS: Final[dict[Any, str]] = {
    F.relu: "relu",
    F.relu_: "relu",
    F.relu6: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.leaky_relu: "leaky_relu",
    F.elu: "elu",
    F.selu: "selu",
    torch.selu: "selu",
    F.gelu: "gelu",
    F.silu: "silu",
    F.mish: "mish",
    F.softplus: "softplus",
    F.hardswish: "hardswish",
    F.tanh: "tanh",
    torch.tanh: "tanh",
    F.hardtanh: "hardtanh",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    F.softmax: "softmax",
    torch.softmax: "softmax",
    F.log_softmax: "log_softmax",
    torch.log_softmax: "log_softmax",
}
_METHODS: Final = {"relu", "relu_", "tanh", "sigmoid", "softmax", "log_softmax"}
_TRANSPARENT: Final = {
    operator.getitem,
    torch.flatten,
    torch.squeeze,
    torch.unsqueeze,
    F.dropout,
    F.max_pool1d,
    F.max_pool2d,
    F.avg_pool1d,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.layer_norm,
    F.batch_norm,
}
_TRANSPARENT_METHODS: Final = {
    "view",
    "reshape",
    "flatten",
    "squeeze",
    "unsqueeze",
    "permute",
    "transpose",
    "contiguous",
    "mean",
}
_ADDITIONS: Final = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass
class Surroundings:
    """What is known about the place of a layer."""

    nonlinearity: str = ""
    """The next nonlinearity, across norms, dropout and additions; "" if there is none."""
    slope: float = 0.01
    """Of a leaky ReLU, for negative inputs."""
    is_output: bool = False
    """No other layer with weights follows."""
    ends_branch: bool = False
    """It is the last layer of a residual branch: its output is added to a value from which its
    input was computed, without a norm between."""


def surroundings_of(model: nn.Module) -> dict[str, Surroundings]:
    """Return the name of each module without children → what follows it."""
    found = _registered(model)
    try:
        # A forward pass may draw random numbers even if its inputs are symbols.
        with torch.random.fork_rng(devices=[]):
            graph = fx.Tracer().trace(model)
    except Exception:  # noqa: BLE001 - any code may fail with symbols; registration is the fallback
        traced = {}
    else:
        traced = _Traced(dict(model.named_modules()), graph).found()
    if traced:
        for place in found.values():
            place.is_output = False
    found.update(traced)
    _transformer_layers(model, found)
    return found


def _registered(model: nn.Module) -> dict[str, Surroundings]:
    order = ForwardOrder()
    names = {}
    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            order.saw(module, ())
            names[id(module)] = name
    return {
        names[key]: Surroundings(
            facts.nonlinearity, slope_of(facts.activation), is_output=facts.output
        )
        for key, facts in order.facts(NORMS).items()
    }


def slope_of(activation: nn.Module | None) -> float:
    """Return the slope of a LeakyReLU or PReLU for negative inputs; 0.01 for others."""
    if isinstance(activation, nn.PReLU):
        return float(activation.weight.detach().mean())
    return float(getattr(activation, "negative_slope", 0.01))


class _Traced:
    """The layers in a symbolic graph."""

    def __init__(self, modules: dict[str, nn.Module], graph: fx.Graph) -> None:
        self._modules = modules
        self._graph = graph

    def found(self) -> dict[str, Surroundings]:
        """Return the surroundings of each module that is called, at its first call."""
        found: dict[str, Surroundings] = {}
        for node in self._graph.nodes:
            name = str(node.target)
            if node.op != "call_module" or name in found:
                continue
            found[name] = self._of(node)
            if isinstance(self._modules[name], nn.MultiheadAttention):
                found[f"{name}.out_proj"] = found[name]
        return found

    def _of(self, node: fx.Node) -> Surroundings:
        mine = Surroundings(is_output=not self._leads_to_weights(node))
        seen: set[fx.Node] = set()
        # (node, whether an addition lies between, whether a norm does)
        waiting = [(user, False, False) for user in node.users]
        while waiting:
            user, added, normed = waiting.pop(0)
            if user in seen:
                continue
            seen.add(user)
            module = self._modules.get(str(user.target)) if user.op == "call_module" else None
            if name := self._nonlinearity(user, module):
                if not mine.nonlinearity:
                    mine.nonlinearity, mine.slope = name, self._slope(user, module)
            elif user.target in _ADDITIONS and not added:
                mine.ends_branch |= not normed and self._is_residual(node, user)
                waiting += [(u, True, normed) for u in user.users]
            elif self._is_transparent(user, module):
                waiting += [(u, added, normed or isinstance(module, NORMS)) for u in user.users]
        return mine

    @staticmethod
    def _nonlinearity(node: fx.Node, module: nn.Module | None) -> str:
        if module is not None:
            return ACTIVATIONS.get(type(module), "")
        if node.op == "call_method":
            name = str(node.target)
            return name.rstrip("_") if name in _METHODS else ""
        return _FUNCTIONS.get(node.target, "") if node.op == "call_function" else ""

    @staticmethod
    def _slope(node: fx.Node, module: nn.Module | None) -> float:
        if module is not None:
            return slope_of(module)
        slope = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else None)
        return float(slope) if isinstance(slope, (int, float)) else 0.01

    @staticmethod
    def _is_transparent(node: fx.Node, module: nn.Module | None) -> bool:
        if module is not None:
            return isinstance(module, (*NORMS, *SKIPPED, nn.AdaptiveAvgPool2d, nn.Unflatten))
        if node.op == "call_method":
            return node.target in _TRANSPARENT_METHODS
        return node.op == "call_function" and node.target in _TRANSPARENT

    @staticmethod
    def _has_weights(module: nn.Module | None) -> bool:
        return module is not None and any(p.dim() > 1 for p in module.parameters())

    def _leads_to_weights(self, node: fx.Node) -> bool:
        seen = {node}
        waiting = list(node.users)
        while waiting:
            user = waiting.pop()
            if user in seen:
                continue
            seen.add(user)
            if user.op == "call_module" and self._has_weights(self._modules[str(user.target)]):
                return True
            waiting += list(user.users)
        return False

    @staticmethod
    def _is_residual(layer: fx.Node, addition: fx.Node) -> bool:
        """Whether an operand of the addition, not on the layer's way to it, leads to the layer."""
        before: set[fx.Node] = set()
        waiting = list(layer.all_input_nodes)
        while waiting:
            node = waiting.pop()
            if node not in before:
                before.add(node)
                waiting += node.all_input_nodes
        return any(operand in before for operand in addition.all_input_nodes)


def _transformer_layers(model: nn.Module, found: dict[str, Surroundings]) -> None:
    """Add what PyTorch's transformer layers contain; they are one node of a traced graph."""
    for name, layer in model.named_modules():
        if not isinstance(layer, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
            continue
        prefix = f"{name}." if name else ""
        activation: Any = layer.activation
        function = (
            ACTIVATIONS.get(type(activation), "")
            if isinstance(activation, nn.Module)
            else _FUNCTIONS.get(activation, "")
        )
        slope = slope_of(activation if isinstance(activation, nn.Module) else None)
        found[f"{prefix}linear1"] = Surroundings(function, slope)
        for last in ("self_attn.out_proj", "multihead_attn.out_proj", "linear2"):
            if f"{prefix}{last}" in found:
                found[f"{prefix}{last}"] = Surroundings(ends_branch=True)


def followers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the name of each module → the module that alone takes its output, directly.

    Both are called once, identities between them do not count, and both are leaves of the symbolic
    graph. Empty for a model that cannot be traced.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            graph = fx.Tracer().trace(model)
    except Exception:  # noqa: BLE001 - any code may fail with symbols; nothing is known then
        return {}
    modules = dict(model.named_modules())
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    found: dict[str, nn.Module] = {}
    for node in graph.nodes:
        if node.op != "call_module" or called.count(str(node.target)) > 1:
            continue
        user = _only_user(node)
        while user is not None and isinstance(modules[str(user.target)], nn.Identity):
            user = _only_user(user)
        if user is not None and called.count(str(user.target)) == 1:
            found[str(node.target)] = modules[str(user.target)]
    return found


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "call_module" else None
