"""Modules that a model keeps in a plain list, tuple or dict: PyTorch does not register them.

Comes in: the models; then the optimizers, once losses are taken. Goes out: one event, when such a
module has a gradient that no optimizer knows. A teacher that is kept in a list on purpose has none.
Promise:  keeps weak references only; reads whether `.grad` exists, and no value.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from torch import nn
from torch.optim.optimizer import Optimizer

from trainvitals.wire import Event, EventKind

ATTRIBUTES_MAX: Final = 8
"""Maximum number of attributes that are followed."""
PARAMETERS_MAX: Final = 32
"""Maximum number of parameters of one attribute that are followed."""


class Unregistered:
    """The modules of one run that are in no `parameters()`."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        known = {id(p) for model in models.values() for p in model.parameters()}
        self._waiting: dict[str, list[weakref.ref[nn.Parameter]]] = {}
        for name, modules in _kept_in_containers(models):
            hidden = [p for m in modules for p in m.parameters() if p.requires_grad]
            hidden = [p for p in hidden if id(p) not in known]
            if hidden and len(self._waiting) < ATTRIBUTES_MAX:
                self._waiting[name] = [weakref.ref(p) for p in hidden[:PARAMETERS_MAX]]

    def event(self, step: int, optimizers: Sequence[Optimizer]) -> Event | None:
        """Return the event of the attributes whose parameters have a gradient and no optimizer."""
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
        return Event(max(0, step), time.time(), EventKind.UNREGISTERED, ",".join(found))


def _kept_in_containers(
    models: Mapping[str, nn.Module],
) -> Iterator[tuple[str, list[nn.Module]]]:
    """Yield the names of attributes, as "encoder.blocks", and the modules in them."""
    for prefix, model in models.items():
        for name, module in model.named_modules(prefix=prefix):
            for attribute, value in vars(module).items():
                if attribute == "_modules" or type(value) not in (list, tuple, dict):
                    continue
                items: Iterable[object] = value.values() if isinstance(value, dict) else value
                modules = [item for item in items if isinstance(item, nn.Module)]
                if modules:
                    yield f"{name}.{attribute}" if name else attribute, modules
