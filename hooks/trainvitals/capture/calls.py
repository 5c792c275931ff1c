"""Observe functions of torch that accept no hooks: GradScaler.step, and the gradients' total norm.

Comes in: the calls of the training program. Goes out: calls of an `Observer`'s methods.
Promise:  arguments, results and exceptions of torch's functions are unchanged. They are replaced
          while at least one observer is attached, and restored after the last one.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.optim.optimizer import Optimizer


class Observer(Protocol):
    """Is called in the training thread; its exceptions reach the training program."""

    def scaler_steps(self, scaler: torch.amp.GradScaler) -> None:
        """`scaler.step(optimizer)` begins."""

    def scaler_stepped(self, optimizer: Optimizer) -> None:
        """`scaler.step(optimizer)` has returned."""

    def clips(self, gradients: Sequence[Tensor], norm: Tensor) -> None:
        """clip_grad_norm_ or get_total_norm found that the L2 norm of `gradients` is `norm`."""


_observers: list[weakref.ref[Observer]] = []
_restores: list[Callable[[], None]] = []


def attach(observer: Observer) -> None:
    """Call the methods of `observer` from now on, while it exists."""
    _observers.append(weakref.ref(observer))
    if not _restores:
        _restores.append(_replace(torch.amp.GradScaler, "step", _scaler_step))
        # clip_grad_norm_ is often imported by name, so it cannot be replaced itself. It looks
        # this function up at each call. Versions of torch without it are not observed.
        if hasattr(clip_grad, "_get_total_norm"):
            _restores.append(_replace(clip_grad, "_get_total_norm", _total_norm))
        # The same function under its public name, which torchtitan calls before it clips.
        if hasattr(torch.nn.utils, "get_total_norm"):
            _restores.append(_replace(torch.nn.utils, "get_total_norm", _total_norm))


def detach(observer: Observer) -> None:
    """Stop calling `observer`. Safe to call twice."""
    _observers[:] = [one for one in _observers if one() not in (None, observer)]
    if not _observers:
        while _restores:
            _restores.pop()()


def _present() -> list[Observer]:
    return [observer for one in _observers if (observer := one()) is not None]


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], None]:
    """Replace an attribute, and return a function that restores it.

    A replacement by another library on top of ours is kept; ours then only passes calls on.
    """
    original = getattr(owner, name)
    ours = functools.wraps(original)(make(original))
    setattr(owner, name, ours)

    def restore() -> None:
        if getattr(owner, name) is ours:
            setattr(owner, name, original)

    return restore


def _scaler_step(original: Any) -> Any:
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        for observer in _present():
            observer.scaler_steps(self)
        result = original(self, optimizer, *args, **kwargs)
        for observer in _present():
            observer.scaler_stepped(optimizer)
        return result

    return step


def _total_norm(original: Any) -> Any:
    def total_norm(tensors: Any, norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Any:
        norm = original(tensors, norm_type, *args, **kwargs)
        if (
            not torch.compiler.is_compiling()
            and float(norm_type) == 2
            and isinstance(tensors, list)
        ):
            for observer in _present():
                observer.clips(tensors, norm)
        return norm

    return total_norm
