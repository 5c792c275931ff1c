"""A torch optimizer in the place of an optimizer of another kind (Keras, fastai).

Comes in: the parameters, and the method with which the framework's optimizer updates them. Goes
out: a torch Optimizer for `watch`, whose hooks torch calls around each of these updates.
Promise:  the method gets the same arguments and its result is returned; after `remove` the object
          has its own method again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class StandIn(torch.optim.Optimizer):
    """Steps by calling another object's method `name`, which then steps by calling this optimizer.

    `rates` returns the learning rate of each group of `groups`, before each step. Calls of the
    method while `is_step` returns False are no steps.
    """

    @classmethod
    def of(
        cls,
        owner: Any,
        name: str,
        groups: Sequence[Iterable[Tensor]],
        rates: Callable[[], Sequence[float]],
        is_step: Callable[[], bool] = lambda: True,
    ) -> StandIn:
        """Return a StandIn whose class has the name of `owner`'s class, for the facts of a run."""
        kind = type(type(owner).__name__, (cls,), {})
        stand_in: StandIn = kind(owner, name, groups, rates, is_step)
        return stand_in

    def __init__(
        self,
        owner: Any,
        name: str,
        groups: Sequence[Iterable[Tensor]],
        rates: Callable[[], Sequence[float]],
        is_step: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__([{"params": list(group)} for group in groups], {"lr": float("nan")})
        self._owner, self._name, self._rates = owner, name, rates
        self._update: Callable[[], Any] = lambda: None
        # An exception in a training leaves the method replaced.
        left = getattr(owner.__dict__.get(name), "stand_in", None)
        if left is not None:
            left.remove()
        self._original = getattr(owner, name)

        @functools.wraps(self._original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            if not is_step():
                return self._original(*args, **kwargs)
            self._update = functools.partial(self._original, *args, **kwargs)
            for group, rate in zip(self.param_groups, self._rates(), strict=True):
                group["lr"] = rate
            self._had_gradients = self._has_gradients()
            return self.step()

        replaced.stand_in = self  # type: ignore[attr-defined]
        self._replaced = replaced
        owner.__dict__[name] = replaced

    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - the base class's signature
        """Call the framework's method, unless the guard of trainvitals hid the gradients."""
        if self._had_gradients and not self._has_gradients():
            return None
        return self._update()

    def remove(self) -> None:
        """Restore the object's own method. Safe to call twice."""
        if self._owner.__dict__.get(self._name) is self._replaced:
            del self._owner.__dict__[self._name]
        self._update = lambda: None

    def _has_gradients(self) -> bool:
        return any(p.grad is not None for group in self.param_groups for p in group["params"])
