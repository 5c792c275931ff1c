"""The order of the first forward pass: each module's depth and the nonlinearity after it.

The hooks record the modules in the order in which they return. A functional nonlinearity
(`torch.relu`) is found in the autograd graph of the next module's input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

ACTIVATIONS: Final[dict[type[nn.Module], str]] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Softplus: "softplus",
    nn.Hardswish: "hardswish",
    nn.Tanh: "tanh",
    nn.Hardtanh: "hardtanh",
    nn.Sigmoid: "sigmoid",
    nn.Hardsigmoid: "sigmoid",
    nn.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
}
_GRAPH_NODES: Final = {
    "Relu": "relu",
    "Hardtanh": "hardtanh",
    "LeakyRelu": "leaky_relu",
    "Elu": "elu",
    "Gelu": "gelu",
    "Hardswish": "hardswish",
    "Mish": "mish",
    "Pow": "pow",
    "Sin": "sin",
    "Silu": "silu",
    "Softplus": "softplus",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
}
_SEEN_THROUGH: Final = ("MaxPool", "AvgPool", "AdaptiveAvgPool", "View", "Reshape", "Dropout")
SKIPPED: Final = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Identity,
    nn.Flatten,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
)
_CHECKPOINT: Final = CheckpointFunction.forward.__code__


@dataclass
class ModuleFacts:
    """Facts about a module from the first forward pass."""

    depth: int
    nonlinearity: str = ""
    """The nonlinearity that the module is, or the next one, across norms and dropout."""
    functional: bool = False
    """The nonlinearity is a function directly after the module, whose output is its input."""
    before_norm: bool = False
    output: bool = False
    activation: nn.Module | None = None
    """The module that is that nonlinearity; None for a function, or if there is none."""


class ForwardOrder:
    """Collects the calls of one forward pass of one model."""

    def __init__(self) -> None:
        self.calls: list[tuple[nn.Module, str]] = []
        self._seen: set[int] = set()
        self._inputs: set[int] = set()

    def saw(self, module: nn.Module, args: object) -> None:
        """Record that `module` was called with `args`. Later calls of it do not count."""
        if id(module) not in self._seen:
            self._seen.add(id(module))
            self.calls.append((module, self._function_before(args)))

    def _function_before(self, args: object) -> str:
        """Return the function that computed the input from the output of the module before.

        "" if an earlier module had the same input: two heads on one trunk.
        """
        node = _node_of(args)
        if node is None:
            return ""
        number = node._sequence_nr()
        is_shared = number in self._inputs
        self._inputs.add(number)
        return "" if is_shared else functional_nonlinearity(args)

    def facts(self, norms: tuple[type[nn.Module], ...]) -> dict[int, ModuleFacts]:
        """Return id(module) → facts for every module that was called."""
        facts = {id(m): ModuleFacts(depth) for depth, (m, _) in enumerate(self.calls)}
        for at, (module, _) in enumerate(self.calls):
            mine = facts[id(module)]
            if type(module) in ACTIVATIONS:
                mine.nonlinearity, mine.activation = ACTIVATIONS[type(module)], module
                continue
            following = self.calls[at + 1 :]
            if following and following[0][1]:
                mine.nonlinearity, mine.functional = following[0][1], True
            else:
                mine.nonlinearity, mine.activation = _next_nonlinearity(following, norms)
            mine.before_norm = bool(following) and isinstance(following[0][0], norms)
        with_parameters = [m for m, _ in self.calls if next(m.parameters(False), None) is not None]
        if with_parameters:
            facts[id(with_parameters[-1])].output = True
        return facts


def _next_nonlinearity(
    following: list[tuple[nn.Module, str]], norms: tuple[type[nn.Module], ...]
) -> tuple[str, nn.Module | None]:
    for module, functional in following:
        if functional:
            return functional, None
        if type(module) in ACTIVATIONS:
            return ACTIVATIONS[type(module)], module
        if not isinstance(module, (*norms, *SKIPPED)):
            return "", None
    return "", None


def functional_nonlinearity(args: object) -> str:
    """Return the nonlinear function that computed a module's first input; "" if unknown."""
    node = _node_of(args)
    for _ in range(4):
        if node is None:
            return ""
        name = type(node).__name__.removesuffix("0").removesuffix("Backward")
        if name in _GRAPH_NODES:
            return _GRAPH_NODES[name]
        if not name.startswith(_SEEN_THROUGH) or not node.next_functions:
            return ""
        node = node.next_functions[0][0]
    return ""


def _node_of(args: object) -> Any:
    first = args[0] if isinstance(args, tuple) and args else None
    return first.grad_fn if isinstance(first, Tensor) else None


NO_TASK: Final = -1
_graph_task: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: NO_TASK)


def in_backward() -> bool:
    """Whether autograd runs a backward: activation checkpointing repeats forward passes there."""
    return _graph_task() != NO_TASK


def in_checkpoint() -> bool:
    """Whether a reentrant checkpoint runs its first forward pass, in which gradients are disabled.

    It is found on the stack, in about a microsecond: torch has no flag for it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CHECKPOINT:
            return True
        frame = frame.f_back
    return False
