"""Observe that one of several optimizers never steps, although its parameters have gradients.

Comes in: each step of an optimizer. Goes out: an event for each optimizer that was given to `watch`
          and does not step, and one more when it steps after all.
Promise:  looks at most five times at the gradients of such an optimizer, and waits for no device.
Start at `IdleOptimizers.before`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from trainvitals.capture.device import is_capturing, recorded
from trainvitals.capture.optimizers import Optimizers
from trainvitals.structure.parameters import Parameter, reason_not_measured
from trainvitals.wire import Event, EventKind, Record

LOOKS: Final = (10, 30, 100, 300, 1000)
"""Steps of the optimizer that stepped first, before which the others' gradients are looked at."""
TENSORS_MAX: Final = 8


class _Look(NamedTuple):
    """The parameters of an optimizer at one step: `norm` is that of some of their gradients."""

    trained: list[Tensor]
    versions: list[int]
    norm: Tensor
    copied: Any

    def had_gradients(self) -> bool:
        """Whether one was not zero; False if its copy has not arrived from the device."""
        return (self.copied is None or bool(self.copied.query())) and float(self.norm) > 0

    def is_unchanged(self, other: _Look) -> bool:
        """Whether no operation in place, such as another optimizer's, changed the parameters."""
        same = len(self.trained) == len(other.trained) and all(
            a is b for a, b in zip(self.trained, other.trained, strict=True)
        )
        return same and self.versions == other.versions


class IdleOptimizers:
    """Compares the steps of the optimizers of a run."""

    def __init__(self, emit: Callable[[Record], None]) -> None:
        self._emit = emit
        self._stepped: set[int] = set()
        self._leader: int | None = None
        self._steps = 0
        self._looks: dict[int, _Look] = {}
        self._reported: set[int] = set()

    def before(
        self,
        optimizer: Optimizer,
        optimizers: Optimizers,
        parameters: Sequence[Parameter],
        step: int,
    ) -> None:
        """Count a step of `optimizer`; `step` is the number of the run's step."""
        known = optimizers.known
        # A wrapper can update the parameters without a step of the optimizer inside.
        if len(known) < 2 or optimizers.wrapped:
            return
        key = id(optimizer)
        if key not in self._stepped:
            self._stepped.add(key)
            self._looks.pop(key, None)
            if key in self._reported:
                self._report(known, optimizer, step, parameters=0.0)
        if self._leader is None:
            self._leader = key
        if key != self._leader:
            return
        self._steps += 1
        if self._steps in LOOKS and len(self._stepped) < len(known):
            for other in known:
                if id(other) not in self._stepped | self._reported:
                    self._look(known, other, parameters, step)

    def _look(
        self,
        known: Sequence[Optimizer],
        optimizer: Optimizer,
        parameters: Sequence[Parameter],
        step: int,
    ) -> None:
        before, now = self._looks.pop(id(optimizer), None), _look_at(optimizer)
        if now is None:
            return
        if before is None or not (before.had_gradients() and before.is_unchanged(now)):
            self._looks[id(optimizer)] = now
            return
        self._reported.add(id(optimizer))
        names = {id(p.tensor): p.name for p in parameters}
        first = next((names[id(t)] for t in now.trained if id(t) in names), "")
        self._report(
            known,
            optimizer,
            step,
            parameters=float(len(now.trained)),
            first=first,
            steps=float(self._steps),
        )

    def _report(
        self, known: Sequence[Optimizer], optimizer: Optimizer, step: int, **values: str | float
    ) -> None:
        index = next(i for i, one in enumerate(known) if one is optimizer)
        name = type(optimizer).__name__
        attributes = {"optimizer": float(index), **values}
        self._emit(Event(step, time.time(), EventKind.OPTIMIZER_IDLE, name, attributes))


def _look_at(optimizer: Optimizer) -> _Look | None:
    """Return the parameters with a gradient; None if none has one that can be read."""
    trained = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    if not trained or any(p.is_inference() for p in trained):
        return None
    readable = [p.grad for p in trained if reason_not_measured(p.grad) is None]
    chosen = [g for g in readable[:TENSORS_MAX] if g.device == readable[0].device]
    if not chosen or is_capturing(chosen[0].device):
        return None
    with torch.no_grad():
        norms = torch.stack([n.float() for n in torch._foreach_norm(chosen)])
        norm, copied = _to_host(torch.linalg.vector_norm(norms))
    return _Look(trained, [p._version for p in trained], norm, copied)


def _to_host(value: Tensor) -> tuple[Tensor, Any]:
    """Copy a value; return it with the event after which it may be read, None: now."""
    if value.device.type != "cuda":
        return value.cpu(), None
    host = torch.empty((), dtype=value.dtype, pin_memory=True)
    host.copy_(value, non_blocking=True)
    return host, recorded(value.device)
