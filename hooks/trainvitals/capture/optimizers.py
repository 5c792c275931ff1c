"""The torch optimizers of a run: given, inside wrappers, or found when they step."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from trainvitals.capture import calls, reasons
from trainvitals.capture.guard import Guard, log
from trainvitals.structure.parameters import local_of, optimized_ids
from trainvitals.wire import Scalar

_INSIDE: Final = ("optimizer", "_optimizer", "optim", "base_optimizer", "inner_optimizer")
"""Attributes in which wrappers store their optimizer: Accelerate, Lightning, DeepSpeed, apex."""
_DEPTH_MAX: Final = 8
CLIPS_MAX: Final = 256
"""Maximum number of calls of clip_grad_norm_ that are kept for the optimizers' next steps."""
CLIPS_SEARCHED_STEPS: Final = 64
"""Number of steps between two searches for the gradients that clip_grad_norm_ clips."""


class Scaling(NamedTuple):
    """What GradScaler and clip_grad_norm_ do in a step: scalars, and the factor that unscales.

    The factor is NaN in a step whose update is skipped: its gradients overflowed. `clipped` is the
    norm before clipping, still scaled; `is_of_all_ranks` is whether it is the same on each rank.
    """

    scalars: dict[str, float | Tensor]
    unscale: float | Tensor = 1.0
    clipped: float | Tensor | None = None
    is_of_all_ranks: bool = False

    @property
    def norm_of_all_ranks(self) -> float | Tensor | None:
        """The norm before clipping if torch has reduced it over the ranks, else None."""
        return self.clipped if self.is_of_all_ranks else None


UNSCALED: Final = Scaling({})


class Clip(NamedTuple):
    """A call of clip_grad_norm_: id of the first gradient, number of gradients, total norm.

    `is_of_all_ranks`: the gradients are DTensors, so torch has reduced their norm over the ranks.
    """

    first: int
    size: int
    norm: float | Tensor
    is_of_all_ranks: bool


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
        self._scaler: torch.amp.GradScaler | None = None
        self._is_scaled = self._has_stepped = False
        self._clips: list[Clip] = []
        # Id of an optimizer → a parameter, the number of gradients, and for how many steps they
        # hold.
        self._covering: dict[int, tuple[Tensor | None, int, int]] = {}

    def attach(self) -> None:
        """Register hooks on the known optimizers, and a global one if an optimizer is missing."""
        calls.attach(self)
        for optimizer in self.known:
            self._hook(optimizer)
        if self.unknown or not self.known:
            self._handles.append(register_optimizer_step_pre_hook(self._stepping))

    def detach(self) -> None:
        """Remove the hooks. Safe to call twice."""
        calls.detach(self)
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    @property
    def ids(self) -> set[int]:
        """The ids of all tensors that the known optimizers update."""
        return optimized_ids(self.known)

    def report_others(self, report: Callable[[str, str], None]) -> bool:
        """Report optimizers that update no parameter of the models.

        Return whether a wrapper lets them update copies of the parameters.
        """
        owned = {id(p) for model in self._models.values() for p in model.parameters()}
        if not (self.known and owned) or self.ids & owned:
            return False
        if self.wrapped:
            report("optimizer", reasons.STEPS_COPIES)
            return True
        log.warning(
            "The optimizer contains none of the model's parameters: it trains another model. "
            "Build it from this model's parameters(). The training goes on."
        )
        report("optimizer", reasons.OTHER_MODEL)
        return False

    def facts(self) -> dict[str, str | float]:
        """Return facts for the rules: the class of the first optimizer, the number of them, and
        the largest momentum (Adam's β₁)."""
        if not self.known:
            return {}
        return {
            "optimizer": type(self.known[0]).__name__,
            "optimizers": float(len(self.known)),
            "momentum": max(map(_momentum, self.known)),
        }

    def scaling(self, optimizer: Optimizer) -> Scaling:
        """Return what GradScaler does in this step of `optimizer`."""
        if not self._clips and self._scaler is None and not hasattr(optimizer, "grad_scale"):
            return UNSCALED
        clip = self._clip_of(optimizer)
        clipped = (None, False) if clip is None else (clip.norm, clip.is_of_all_ranks)
        fused = scaling_of(optimizer)
        if fused.scalars or self._scaler is None:
            return fused if clip is None else Scaling(fused.scalars, fused.unscale, *clipped)
        skipped = self._is_scaled and not self._has_stepped
        scalars: dict[str, float | Tensor] = {Scalar.SKIPPED_STEP: float(skipped)}
        if isinstance(scale := getattr(self._scaler, "_scale", None), Tensor):
            scalars[Scalar.LOSS_SCALE] = _read(scale)
        return Scaling(scalars, math.nan if skipped else 1.0, *clipped)

    def _clip_of(self, optimizer: Optimizer) -> Clip | None:
        """Return the clipping of all gradients of `optimizer` since its last step.

        Its norm is the total of several calls. None unless the latest calls have as many gradients
        as the optimizer.
        """
        if not self._clips:
            return None
        first, size, left = self._covering.get(id(optimizer), (None, 0, 0))
        [clip, *more] = self._clips
        if left and first is not None and not more and clip[:2] == (id(first.grad), size):
            # As in the step before: to search all gradients costs 0.2 ms for 500 of them.
            self._covering[id(optimizer)] = first, size, left - 1
            self._clips = []
            return clip
        params = [p for group in optimizer.param_groups for p in group["params"]]
        of_gradient = {id(p.grad): p for p in params if p.grad is not None}
        mine = [c for c in self._clips if c.first in of_gradient]
        known = {id(c) for c in mine}
        self._clips = [c for c in self._clips if id(c) not in known]
        taken: dict[int, Clip] = {}
        count = 0
        # The latest first: an earlier one of the same gradients is of values that were discarded,
        # or is followed by a second clipping.
        for clip in reversed(mine):
            if clip.first not in taken and count < len(of_gradient):
                taken[clip.first] = clip
                count += clip.size
        if not taken or count != len(of_gradient):
            return None
        one, *others = taken.values()
        if not others:
            self._covering[id(optimizer)] = of_gradient[one.first], count, CLIPS_SEARCHED_STEPS
            return one
        norm = sum((clip.norm**2 for clip in others), one.norm**2) ** 0.5
        return Clip(one.first, count, norm, all(clip.is_of_all_ranks for clip in taken.values()))

    # Called by calls.py.

    def scaler_steps(self, scaler: torch.amp.GradScaler) -> None:
        """Remember the scaler for the hooks of the step that it begins."""
        with self._guard.probe("GradScaler"):
            self._scaler = scaler if scaler.is_enabled() else None
            self._is_scaled, self._has_stepped = self._scaler is not None, False

    def scaler_stepped(self, optimizer: Optimizer) -> None:
        """Call the hooks for a step that GradScaler skipped: the optimizer did not call them."""
        skipped = self._is_scaled and not self._has_stepped
        try:
            if skipped:
                if self.unknown or not self.known:
                    self._stepping(optimizer, None, None)
                if any(o is optimizer for o in self.known):
                    self._before(optimizer, (), {})
                    self._after(optimizer, (), {})
        finally:
            self._scaler, self._is_scaled = None, False

    def clips(self, gradients: Sequence[Tensor], norm: Tensor) -> None:
        """Remember the norm for the hooks of the next step."""
        with self._guard.probe("norm before clipping"):
            whole = local_of(norm)
            if type(whole) is Tensor and gradients:
                reduced = whole is not norm
                clip = Clip(id(gradients[0]), len(gradients), _read(whole), reduced)
                self._clips = [*self._clips[1 - CLIPS_MAX :], clip]

    def _begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._has_stepped = True
        self._before(optimizer, args, kwargs)

    def _hook(self, optimizer: Optimizer) -> None:
        self._handles.append(optimizer.register_step_pre_hook(self._begins))
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
    if not kwargs and len(args) < 2:
        return None
    closure = kwargs.get("closure") or next((a for a in args if callable(a)), None)
    return closure if callable(closure) else None


def scaling_of(optimizer: Optimizer) -> Scaling:
    """Return what GradScaler does in this step of a fused optimizer, which unscales inside it.

    Without scalars if there is nothing to unscale. Values of a device stay there.
    """
    grad_scale = getattr(optimizer, "grad_scale", None)
    found_inf = getattr(optimizer, "found_inf", None)
    if grad_scale is None and found_inf is None:
        return UNSCALED
    found = {Scalar.LOSS_SCALE: grad_scale, Scalar.SKIPPED_STEP: found_inf}
    scalars: dict[str, float | Tensor] = {
        name: _read(value) for name, value in found.items() if isinstance(value, Tensor)
    }
    scale, skipped = scalars.get(Scalar.LOSS_SCALE, 1.0), scalars.get(Scalar.SKIPPED_STEP, 0.0)
    if isinstance(scale, Tensor) or isinstance(skipped, Tensor):
        unscale = torch.where(torch.as_tensor(skipped) > 0, torch.nan, 1 / scale)
        return Scaling(scalars, unscale)
    return Scaling(scalars, math.nan if skipped > 0 else 1 / scale)


def _read(value: Tensor) -> float | Tensor:
    return float(value) if value.device.type == "cpu" else value.detach().reshape(())


def _momentum(optimizer: Optimizer) -> float:
    """Return the largest momentum, or β₁, of the parameter groups; 0 if there is none."""
    values = [
        _number(group.get("momentum") or next(iter(group.get("betas") or ()), 0.0))
        for group in optimizer.param_groups
    ]
    return max((value for value in values if 0 <= value < 1), default=0.0)


def group_scalars(optimizers: Iterable[Optimizer]) -> dict[str, float]:
    """Return learning rate and weight decay of every parameter group; NaN if unknown."""
    scalars, index = {}, 0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            learning_rate, weight_decay = _names_of_group(index)
            scalars[learning_rate] = _number(group.get("lr"))
            if "weight_decay" in group:
                scalars[weight_decay] = _number(group["weight_decay"])
            index += 1
    return scalars


@functools.cache
def _names_of_group(index: int) -> tuple[str, str]:
    return f"{Scalar.LEARNING_RATE}/{index}", f"{Scalar.WEIGHT_DECAY}/{index}"


def _number(value: object) -> float:
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" else math.nan
    return float(value) if isinstance(value, (int, float)) else math.nan
