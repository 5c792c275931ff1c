"""Collect the losses and other scalars of the current step; the hooks that see losses unasked.

Comes in: losses from `monitor.loss`, a loss module, a model whose output has a loss (Hugging Face),
          a `training_step` (Lightning). Goes out: the scalars of a step.
"""

from __future__ import annotations

import copy
import functools
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainvitals.capture.guard import Guard
from trainvitals.capture.hooks import Hooked
from trainvitals.capture.supervised_inputs import first_input
from trainvitals.wire import Scalar

Number = float | int | Tensor
Loss = Number | Mapping[str, Number]
"""A loss, or its terms by name."""

_FUNCTIONS: Final = {
    "cross_entropy": "CrossEntropyLoss",
    "nll_loss": "NLLLoss",
    "gaussian_nll_loss": "GaussianNLLLoss",
    "poisson_nll_loss": "PoissonNLLLoss",
    "binary_cross_entropy": "BCELoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "mse_loss": "MSELoss",
    "l1_loss": "L1Loss",
    "smooth_l1_loss": "SmoothL1Loss",
    "huber_loss": "HuberLoss",
    "kl_div": "KLDivLoss",
}
"""Loss functions of torch → the modules that compute the same."""

TOTAL: Final = "loss"
"""The name of the total in a dict of loss terms; without it, the loss is the sum of the terms."""


@dataclass(frozen=True)
class Seen:
    """What is known about a loss besides its value. Holds tensors: drop it after the call."""

    prediction: object = None
    target: object = None
    explicit: bool = False
    """Whether they were given to `monitor.loss`, not to a loss module."""
    module: str = ""
    """The class of the loss module, if the loss is its output."""
    ignore_index: int | None = None


NOTHING: Final = Seen()


class StepScalars:
    """Collects the scalars between two optimizer steps; micro-batches are averaged."""

    def __init__(self) -> None:
        self._logged: list[Tensor | float] = []
        self._hooked: list[Tensor | float] = []
        self._others: dict[str, Tensor | float] = {}
        self._terms: dict[str, tuple[Tensor | float, int]] = {}
        self.seen = False
        """Whether a training loss was recorded in this run."""
        self.logged = False
        """Whether a training loss was recorded by `monitor.loss`, not by a hook."""
        self.are_parts = False
        """The losses of the micro-batches are parts of the step's loss: their sum counts."""

    @property
    def hooked(self) -> bool:
        """Whether the loss of the current step is that of the hooks.

        It is not if an earlier micro-batch of the step was recorded otherwise, before the hooks.
        """
        return bool(self._hooked) and not self._logged

    @property
    def waiting(self) -> int:
        """Number of training losses in the current step."""
        return len(self._logged or self._hooked)

    def take_losses(self) -> list[Tensor | float]:
        """Return the training losses of the current step, oldest first, and remove them."""
        losses = self._logged or self._hooked
        self._logged, self._hooked = [], []
        return losses

    def loss(self, value: Number, *, hooked: bool = False) -> bool:
        """Add the training loss of one micro-batch; return whether it is known to be non-finite.

        A loss from the hook of the loss module counts only in steps without `monitor.loss`.
        """
        number = scalar_of(value)
        (self._hooked if hooked else self._logged).append(number)
        self.seen = True
        self.logged = self.logged or not hooked
        return isinstance(number, float) and not math.isfinite(number)

    def terms(self, value: Loss, allowed: Callable[[object], str | None]) -> None:
        """Add the terms of a training loss; the micro-batches of a step are averaged.

        `allowed` returns the name under which a term is stored, None for a name too many.
        """
        if isinstance(value, Tensor) or not isinstance(value, Mapping):
            return
        for given, term in value.items():
            if given != TOTAL and term is not None and (name := allowed(given)) is not None:
                total, count = self._terms.get(name, (0.0, 0))
                self._terms[name] = (total + scalar_of(term), count + 1)

    def log(self, scalars: Mapping[str, Number]) -> None:
        """Add other scalars by their full names; the newest value of a step counts."""
        for name, value in scalars.items():
            self._others[name] = scalar_of(value)

    def take(self) -> dict[str, float | Tensor]:
        """Return the step's scalars by name and reset; tensors if they are on a device."""
        losses = self._logged or self._hooked
        taken = self._others
        for name, (total, count) in self._terms.items():
            taken[f"{Scalar.LOSS_TERM}/{name}"] = total / count
        numbers = [x for x in losses if type(x) is float]
        if losses and len(numbers) == len(losses):
            finite = [x for x in numbers if math.isfinite(x)]
            count = 1 if self.are_parts else len(finite)
            taken[Scalar.LOSS] = sum(finite) / count if finite else math.nan
            taken[Scalar.NONFINITE_LOSS] = float(len(losses) - len(finite))
        elif losses:
            stacked = torch.stack([x for x in losses if isinstance(x, Tensor)]).float()
            finite_on_device = torch.isfinite(stacked)
            total = torch.where(finite_on_device, stacked, 0.0).sum()
            count_on_device = finite_on_device.sum()
            if self.are_parts:
                count_on_device = count_on_device.clamp(max=1)
            taken[Scalar.LOSS] = total / count_on_device
            taken[Scalar.NONFINITE_LOSS] = (~finite_on_device).sum().float()
        self._logged, self._hooked, self._others, self._terms = [], [], {}, {}
        return taken


class LossHooks:
    """Hooks on the loss module and the models, which report training losses, until `remove`.

    `receive` is called with each training loss and what is known about it. `returned` is called
    with the first input and the output of a model in training mode while `is_full()`. If the loss
    module is given, losses in outputs of the models are not reported; the same for a model with a
    `training_step`, whose return value is reported.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        loss: nn.Module | None,
        guard: Guard,
        receive: Callable[[Tensor, Seen], None],
        returned: Callable[[Tensor | None, object], None],
        is_full: Callable[[], bool],
    ) -> None:
        self._guard = guard
        self._receive = receive
        self._returned = returned
        self._is_full = is_full
        self._reported_by_models = loss is None
        self._steps: list[TrainingStep] = []
        self._hooked = [] if loss is None else [Hooked(loss, self._loss_returned)]
        for model in dict.fromkeys(models.values()):
            if isinstance(model, torch.jit.ScriptModule):
                continue  # torch refuses hooks on it
            self._hooked.append(Hooked(model, self._model_returned, kwargs=True))
            if loss is None and callable(getattr(model, "training_step", None)):
                self._steps.append(TrainingStep(model, self._step_returned))

    def remove(self) -> None:
        """Remove the hooks. Safe to call twice."""
        for hook in self._hooked:
            hook.remove()
        for step in self._steps:
            step.remove()

    def _loss_returned(self, module: nn.Module, args: object, output: object) -> None:
        if (loss := _trained(module, output)) is None:
            return
        kind = type(module).__name__
        seen = Seen(module=kind)
        with self._guard.probe("loss"):
            tensors = [a for a in args if isinstance(a, Tensor)] if isinstance(args, tuple) else []
            # A loss module of the user can take them in any order: the target has no gradient.
            prediction = next((a for a in tensors if a.requires_grad), None)
            target = next((a for a in tensors if not a.requires_grad), None)
            index = getattr(module, "ignore_index", None)
            index = index if isinstance(index, int) else None
            seen = Seen(prediction, target, module=kind, ignore_index=index)
        self._receive(loss, seen)

    def _model_returned(
        self, module: nn.Module, args: object, kwargs: Mapping[str, object], output: object
    ) -> None:
        if not module.training or not torch.is_grad_enabled():
            return
        if self._is_full() and "model output" not in self._guard.off:
            with self._guard.probe("model output"):
                self._returned(first_input(args, kwargs), output)
        if self._reported_by_models and not isinstance(output, Tensor) and not self._steps:
            self._receive_from(module, output)

    def _step_returned(self, module: nn.Module, output: object) -> None:
        self._receive_from(module, output)

    def _receive_from(self, module: nn.Module, output: object) -> None:
        loss = None
        with self._guard.probe("loss"):
            loss = _trained(module, loss_of(output))
        if loss is not None and loss.numel() == 1:
            self._receive(loss, NOTHING)


class TrainingStep:
    """Stands in for a model's `training_step` method (Lightning) and passes on what it returns.

    It is an attribute of the instance, until `remove`; a copy or a pickle of the model has the
    method itself in its place. Not used if the instance already has an attribute of this name.
    """

    def __init__(self, model: nn.Module, receive: Callable[[nn.Module, object], None]) -> None:
        self._model = model
        self._receive = receive
        self.__wrapped__ = model.training_step  # inspect and Lightning look through it
        if "training_step" not in model.__dict__:
            model.__dict__["training_step"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.__wrapped__(*args, **kwargs)  # type: ignore[operator]
        if not torch.compiler.is_compiling():
            self._receive(self._model, output)
        return output

    def remove(self) -> None:
        """Give the method back. Safe to call twice."""
        if self._model.__dict__.get("training_step") is self:
            del self._model.__dict__["training_step"]

    def __deepcopy__(self, memo: dict[int, Any]) -> object:
        return copy.deepcopy(self.__wrapped__, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model, "training_step")


def loss_of(output: object) -> object:
    """Return the loss in what a model or a `training_step` returned, or None."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return output.get("loss")
    return getattr(output, "loss", None)


def _trained(module: nn.Module, loss: object) -> Tensor | None:
    """Return a loss that is about to be trained with, otherwise None."""
    if not module.training or not torch.is_grad_enabled():
        return None
    return loss if isinstance(loss, Tensor) and loss.requires_grad else None


def total_of(value: Loss) -> Number:
    """Return the loss; of a dict, its entry "loss", or the sum of its terms, without a graph."""
    # Tensor first: on every step, a look-up of an abstract class would cost more than the rest.
    if isinstance(value, Tensor) or not isinstance(value, Mapping):
        return value
    if TOTAL in value:
        return value[TOTAL]
    total: Number = 0.0
    for term in value.values():
        if term is not None:  # a term that is switched off
            total = total + scalar_of(term)
    return total


def examined_of(value: Loss) -> object:
    """Return the tensor whose graph explains a non-finite loss: the first non-finite term."""
    if not isinstance(value, Mapping):
        return value
    parts = [v for v in value.values() if isinstance(v, Tensor)]
    bad = [v for v in parts if not torch.isfinite(v.detach()).all()]
    return next(iter(bad or parts), None)


def kind_of_loss(loss: object) -> str:
    """Return the class of a loss module; for a loss function of torch, the equivalent module."""
    if isinstance(loss, torch.nn.Module):
        return type(loss).__name__
    name = name_of(loss)
    return _FUNCTIONS.get(name, name)


def name_of(loss: object) -> str:
    """Return the name of a function or a class, and the class of any other object."""
    inner = loss.func if isinstance(loss, functools.partial) else loss
    if isinstance(inner, (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return inner.__name__
    return type(inner).__name__


def scalar_of(value: Number) -> Tensor | float:
    """Return a number as float, or as a detached scalar tensor if it is on a device.

    A tensor with several entries (reduction="none") is averaged.
    """
    if not isinstance(value, Tensor):
        return float(value)
    if value.is_cpu and value.numel() == 1:
        return float(value.item())
    value = value.detach()
    if value.numel() != 1:
        value = value.float().mean()
    return float(value) if value.is_cpu else value.reshape(())
