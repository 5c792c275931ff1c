"""The torch optimizers of a run: given, inside wrappers, or found when they step."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from trainvitals.capture.guard import Guard
from trainvitals.capture.parameters import optimized_ids
from trainvitals.wire import Scalar

_INSIDE: Final = ("optimizer", "_optimizer", "optim", "base_optimizer", "inner_optimizer")
"""Attributes in which wrappers store their optimizer: Accelerate, Lightning, DeepSpeed, apex."""
_DEPTH_MAX: Final = 8


class Optimizers:
    """The optimizers of a run, in order; the steps of the first one are the run's steps.

    `unknown` lists the classes of the given objects that contain no torch optimizer; `wrapped` is
    whether an optimizer is inside a wrapper. If no usable optimizer was given, every torch
    optimizer that steps with parameters of the models is added.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        given: object,
        guard: Guard,
        before: Callable[[Optimizer, Any, Any], None],
        after: Callable[[Optimizer, Any, Any], None],
    ) -> None:
        self.known, self.unknown = torch_optimizers(given)
        # Wrappers for mixed precision and sharding update copies of the parameters.
        self.wrapped = any(not any(o is one for one in _several(given)) for o in self.known)
        self._models = models
        self._guard = guard
        self._before, self._after = before, after
        self._foreign: weakref.WeakValueDictionary[int, Optimizer] = weakref.WeakValueDictionary()
        self._handles: list[Any] = []

    def attach(self) -> None:
        """Register hooks on the known optimizers, and a global one if an optimizer is missing."""
        for optimizer in self.known:
            self._hook(optimizer)
        if self.unknown or not self.known:
            self._handles.append(register_optimizer_step_pre_hook(self._stepping))

    def detach(self) -> None:
        """Remove the hooks. Safe to call twice."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    @property
    def ids(self) -> set[int]:
        """The ids of all tensors that the known optimizers update."""
        return optimized_ids(self.known)

    def step_others_tensors(self) -> bool:
        """Whether optimizers are known and update no parameter of the models."""
        owned = {id(p) for model in self._models.values() for p in model.parameters()}
        return bool(self.known and owned) and not self.ids & owned

    def facts(self) -> dict[str, str | float]:
        """Return facts for the rules: the class of the first optimizer, and the number of them."""
        if not self.known:
            return {}
        return {"optimizer": type(self.known[0]).__name__, "optimizers": float(len(self.known))}

    def _hook(self, optimizer: Optimizer) -> None:
        self._handles.append(optimizer.register_step_pre_hook(self._before))
        self._handles.append(optimizer.register_step_post_hook(self._after))

    def _stepping(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        with self._guard.probe("optimizers"):
            known = any(o is optimizer for o in self.known)
            if known or self._foreign.get(id(optimizer)) is optimizer:
                return
            mine = optimized_ids([optimizer])
            owned = {id(p) for model in self._models.values() for p in model.parameters()}
            # An optimizer inside a known one updates the same parameters a second time.
            if mine & owned and not mine & self.ids:
                self.known.append(optimizer)
                # torch calls the global hooks before the optimizer's own, which run in this step.
                self._hook(optimizer)
            else:
                self._foreign[id(optimizer)] = optimizer


def torch_optimizers(given: object) -> tuple[list[Optimizer], list[str]]:
    """Return the torch optimizers in `given`, each once, and the classes of the other objects.

    `given` is None, an optimizer, a wrapper around one, or a list or mapping of these.
    """
    found: list[Optimizer] = []
    unknown: list[str] = []
    for one in _several(given):
        inner = unwrapped(one)
        if inner is None:
            unknown.append(type(one).__name__)
        elif not any(inner is other for other in found):
            found.append(inner)
    return found, unknown


def _several(given: object) -> list[object]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return list(given.values())
    if isinstance(given, (list, tuple)):
        return list(given)
    return [given]


def unwrapped(optimizer: object) -> Optimizer | None:
    """Return the torch optimizer that `optimizer` is or contains; None if there is none."""
    for _ in range(_DEPTH_MAX):
        # Accelerate's wrapper is an Optimizer, but Optimizer.__init__ never ran: it has no hooks.
        if isinstance(optimizer, Optimizer) and "_optimizer_step_pre_hooks" in vars(optimizer):
            return optimizer
        try:
            inside = [getattr(optimizer, name, None) for name in _INSIDE]
        except Exception:  # noqa: BLE001 - a property of the wrapper may raise anything
            return None
        optimizer = next((x for x in inside if x is not None and x is not optimizer), None)
        if optimizer is None:
            return None
    return None


def closure_of(args: Any, kwargs: Any) -> Callable[[], object] | None:
    """Return the closure given to `step`; its first positional argument is the optimizer."""
    closure = kwargs.get("closure") or next((a for a in args if callable(a)), None)
    return closure if callable(closure) else None


def scaling_of(optimizer: Optimizer) -> dict[str, float | Tensor]:
    """Return GradScaler's factor and whether it skips the update, for the scalars of the step.

    Empty if no fused optimizer unscales inside its step. Values of a device stay there.
    """
    names = {Scalar.LOSS_SCALE: "grad_scale", Scalar.SKIPPED_STEP: "found_inf"}
    found = {scalar: getattr(optimizer, name, None) for scalar, name in names.items()}
    return {
        scalar: float(value) if value.device.type == "cpu" else value.detach().reshape(())
        for scalar, value in found.items()
        if isinstance(value, Tensor)
    }


def unscale_of(scaling: Mapping[str, float | Tensor]) -> float | Tensor:
    """Return the factor that undoes GradScaler's; NaN in a skipped step: it has no gradients."""
    scale, skipped = scaling.get(Scalar.LOSS_SCALE, 1.0), scaling.get(Scalar.SKIPPED_STEP, 0.0)
    if isinstance(scale, Tensor) or isinstance(skipped, Tensor):
        return torch.where(torch.as_tensor(skipped) > 0, torch.nan, 1 / scale)
    return math.nan if skipped > 0 else 1 / scale


def group_scalars(optimizers: Iterable[Optimizer]) -> dict[str, float]:
    """Return learning rate and weight decay of every parameter group; NaN if unknown."""
    scalars = {}
    for index, group in enumerate(g for o in optimizers for g in o.param_groups):
        scalars[f"{Scalar.LEARNING_RATE}/{index}"] = _number(group.get("lr"))
        if "weight_decay" in group:
            scalars[f"{Scalar.WEIGHT_DECAY}/{index}"] = _number(group["weight_decay"])
    return scalars


def _number(value: object) -> float:
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" else math.nan
    return float(value) if isinstance(value, (int, float)) else math.nan
