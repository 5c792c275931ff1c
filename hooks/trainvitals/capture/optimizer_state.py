"""Observe optimizers: their hyperparameters at the first step, and a state that is missing.

Comes in: an optimizer before and after each of its steps. Goes out: an event at its first step, and
          one when it begins a step without the state that it should have; idle_optimizers.py looks
          for others that never step.
Promise:  reads at most the size of a dict at each step, and no tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim.optimizer import Optimizer

from trainvitals.capture.hyperparameters import optimizer_event
from trainvitals.capture.idle_optimizers import IdleOptimizers
from trainvitals.capture.optimizers import Optimizers
from trainvitals.structure.parameters import Parameter
from trainvitals.wire import Event, EventKind, Record


class OptimizerState:
    """The number of parameters with a state, per optimizer, after its newest step.

    `start_step` is the number of the run's first step: above 0 after a resume.
    """

    def __init__(self, start_step: int, emit: Callable[[Record], None]) -> None:
        self._start_step = start_step
        self._emit = emit
        self._sizes: dict[int, int] = {}
        self._described: set[int] = set()
        self._is_new = False
        self._idle = IdleOptimizers(emit)

    def before(
        self,
        optimizer: Optimizer,
        optimizers: Optimizers,
        parameters: Sequence[Parameter],
        step: int,
    ) -> None:
        """Report a new optimizer, a state that was there after the step before and is gone, and
        others that never step."""
        self._idle.before(optimizer, optimizers, parameters, step)
        if id(optimizer) not in self._described:
            index = len(self._described)
            self._described.add(id(optimizer))
            self._emit(optimizer_event(optimizer, index, step))
        known = self._sizes.get(id(optimizer))
        empty = not optimizer.state
        self._is_new = known is None and empty and 0 < self._start_step == step
        if known and empty:
            self._report(optimizer, step, known)

    def after(self, optimizer: Optimizer, step: int) -> None:
        """Report a resumed optimizer that had no state in its first step and has one after it."""
        if not self._is_new and self._sizes.get(id(optimizer)) == len(optimizer.state):
            return
        is_new, self._is_new = self._is_new, False
        # SGD without momentum has an entry for each parameter, and no tensor in it.
        held = sum(_has_memory(state) for state in optimizer.state.values())
        self._sizes[id(optimizer)] = len(optimizer.state) if held else 0
        if held and is_new:
            self._report(optimizer, step, held)

    def _report(self, optimizer: Optimizer, step: int, count: int) -> None:
        name = type(optimizer).__name__
        known: dict[str, str | float] = {"parameters": float(count)}
        self._emit(Event(step, time.time(), EventKind.OPTIMIZER_STATE_EMPTY, name, known))


def _has_memory(state: object) -> bool:
    """Whether the state of a parameter has a tensor of the past gradients, not only a counter."""
    values = state.values() if isinstance(state, dict) else ()
    return any(isinstance(v, Tensor) and v.ndim > 0 for v in values)
