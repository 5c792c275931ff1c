"""Modules in a plain list, tuple, dict or callable object of a model: PyTorch registers none.

Comes in: the models; then the optimizers, once losses are taken. Goes out: one event, when such a
module has a gradient that no optimizer knows. A teacher that is kept in a list on purpose has none.
Promise:  keeps weak references only; reads whether `.grad` exists, and no value.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from torch import nn
from torch.optim.optimizer import Optimizer

from trainvitals.wire import Event, EventKind

ATTRIBUTES_MAX: Final = 8
"""Maximum number of attributes that are followed."""
PARAMETERS_MAX: Final = 32
"""Maximum number of parameters of one attribute that are followed."""
DEPTH_MAX: Final = 3
"""Containers and objects inside of each other that are searched."""
ITEMS_MAX: Final = 64
"""Entries of a container, or attributes of an object, that are searched."""
_CONTAINERS: Final = (list, tuple, dict)
_OF_TORCH: Final = frozenset(vars(nn.Module()))
"""Attributes that each module has: its registered modules, and its hooks."""


class Unregistered:
    """The modules of one run that are in no `parameters()`."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        known = {id(p) for model in models.values() for p in model.parameters()}
        self._waiting: dict[str, list[weakref.ref[nn.Parameter]]] = {}
        self._nested: set[str] = set()
        for name, modules, is_flat in _kept_outside(models):
            hidden = [p for m in modules for p in m.parameters() if p.requires_grad]
            hidden = [p for p in hidden if id(p) not in known]
            if hidden and len(self._waiting) < ATTRIBUTES_MAX:
                self._waiting[name] = [weakref.ref(p) for p in hidden[:PARAMETERS_MAX]]
                if not is_flat:
                    self._nested.add(name)

    def event(self, step: int, optimizers: Sequence[Optimizer]) -> Event | None:
        """Return the event of the attributes whose parameters have a gradient and no optimizer.

        Its attributes name those that are no container of modules, but an object or nested.
        """
        if not self._waiting or not optimizers:
            return None
        updated = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
        found = []
        for name, references in self._waiting.items():
            alive = [p for ref in references if (p := ref()) is not None]
            if any(p.grad is not None and id(p) not in updated for p in alive):
                found.append(name)
        if not found:
            return None
        self._waiting = {}
        nested: dict[str, str | float] = {name: "nested" for name in found if name in self._nested}
        return Event(max(0, step), time.time(), EventKind.UNREGISTERED, ",".join(found), nested)


def _kept_outside(
    models: Mapping[str, nn.Module],
) -> Iterator[tuple[str, list[nn.Module], bool]]:
    """Yield names of attributes, as "encoder.blocks", their modules, and whether these lie flat."""
    for prefix, model in models.items():
        for name, module in model.named_modules(prefix=prefix):
            for attribute, value in vars(module).items():
                # A module itself gets into __dict__ only on purpose, past `__setattr__`.
                if attribute in _OF_TORCH or isinstance(value, nn.Module):
                    continue
                modules = [*_modules_in(value)]
                if not modules:
                    continue
                is_flat = isinstance(value, _CONTAINERS) and all(
                    isinstance(item, nn.Module) for item in _items(value)
                )
                yield f"{name}.{attribute}" if name else attribute, modules, is_flat


def _modules_in(value: object, depth: int = DEPTH_MAX) -> Iterator[nn.Module]:
    """Yield the modules in a plain container, or in a callable object: a layer that is no Module.

    Not in other objects: a trainer, or the configuration of a model, is not a part of it.
    """
    if isinstance(value, nn.Module):
        yield value
    elif depth > 0:
        for item in islice(_items(value), ITEMS_MAX):
            yield from _modules_in(item, depth - 1)


def _items(value: object) -> Iterable[object]:
    if type(value) is dict:
        return value.values()
    if type(value) in (list, tuple):
        return value  # type: ignore[return-value]
    is_layer = callable(value) and type(value).__module__ not in ("builtins", "functools")
    return vars(value).values() if is_layer and hasattr(value, "__dict__") else ()
