"""A training program as data: model, data, loss, optimizer and loop, each part replaceable.

Comes in: nothing; bases.py builds healthy programs, and a fault or a control variant changes one.
Goes out: `Program`, which train.py runs.
Promise:  the same seed gives the same weights, the same data and the same order of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Loss = Callable[[Any, Any], Any]
Metric = Callable[[Any, Any], Tensor]
Change = Callable[["Program"], object]


@dataclass(frozen=True)
class Data:
    """Training and test samples; the test samples are always clean."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


@dataclass
class Program:
    """One training run before it starts. `metric` is lower for a better model."""

    model: nn.Module
    data: Data
    loss: Loss
    metric: Metric
    lr: float
    optimizer: Callable[[Any, float], Any] = torch.optim.Adam
    """Returns an optimizer, or a list of them for a program with its own `step`."""
    steps: int = 250
    batch_size: int = 32
    parameters: Callable[[nn.Module], Any] = lambda model: [*model.parameters()]
    forward: Callable[[nn.Module, Tensor], Any] = lambda model, x: model(x)
    collate: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] = lambda _, x, y: (x, y)
    """Makes the batch of a step from its samples; training only."""
    sample: Callable[[Program, int, torch.Generator], Tensor] = lambda p, _, generator: (
        torch.randint(len(p.data.x), (p.batch_size,), generator=generator)
    )
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None
    closure: bool = False
    zero_grad: bool = True
    step_first: bool = False
    """Call `optimizer.step()` before `backward()`: a fault."""
    clip_norm: float | None = None
    accumulate: int = 1
    train_mode: bool = True
    validate_every: int = 0
    loss_falls: bool = True
    step: Callable[[Program, Any, Any, int], None] | None = None
    """Trains one step of a program with several models, instead of the common loop.

    Receives the program, what `optimizer` returned, the monitor and the number of the step.
    """
    started: list[Callable[[Program, Optimizer], None]] = field(default_factory=list)
    """Called once, after the optimizer is created and before `watch`."""
    events: list[Callable[[int, Program, Optimizer], None]] = field(default_factory=list)
    """Called after every step."""

    def with_inputs(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the inputs of training and test: an error of the pipeline that both share."""
        x, x_test = change(self.data.x), change(self.data.x_test)
        self.data = replace(self.data, x=x, x_test=x_test)

    def with_targets(self, change: Callable[[Tensor], Tensor], *, test: bool = True) -> None:
        """Change the training targets and, if `test`, those of the test."""
        y_test = change(self.data.y_test) if test else self.data.y_test
        self.data = replace(self.data, y=change(self.data.y), y_test=y_test)


Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh)


def weight_layers(model: nn.Module) -> list[tuple[str, Weighted]]:
    """Return the linear and convolution layers by name, in the order of definition."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, Weighted)]


def hidden_layers(model: nn.Module) -> list[tuple[str, Weighted]]:
    """Return `weight_layers` without the output layer."""
    return weight_layers(model)[:-1]


def output_layer(model: nn.Module) -> tuple[str, Any]:
    """Return the last linear or convolution layer and its name."""
    return weight_layers(model)[-1]


def activation_after(model: nn.Module, name: str) -> str:
    """Return the name of the first activation defined after the module `name`, or `name`."""
    modules = [*model.named_modules()]
    at = [n for n, _ in modules].index(name)
    return next((n for n, m in modules[at:] if isinstance(m, ACTIVATIONS)), name)


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule `name`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def append(model: nn.Module, name: str, module: nn.Module) -> None:
    """Apply `module` to the output of the submodule `name`."""
    put(model, name, nn.Sequential(model.get_submodule(name), module))


def swap(model: nn.Module, kind: type[nn.Module], make: Callable[[], nn.Module]) -> None:
    """Replace every submodule of class `kind`."""
    for name, module in [*model.named_modules()]:
        if isinstance(module, kind):
            put(model, name, make())


def around(name: str) -> tuple[str, ...]:
    """Return globs for a module, its parameters and its children."""
    return (name, f"{name}.*")


def places_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the globs for several modules."""
    return tuple(glob for name in names for glob in around(name))
