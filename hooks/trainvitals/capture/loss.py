"""The hooks that see losses which the program does not report.

Comes in: the output of a loss module, of a model whose output has a loss (Hugging Face), and of a
          `training_step` (Lightning). Goes out: the losses, and what is known about them.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainvitals.capture.guard import Guard
from trainvitals.capture.hooks import Hooked
from trainvitals.capture.scalars import Loss
from trainvitals.capture.supervised_inputs import Given, given_to

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

PLAIN_OUTPUTS: Final = 8
"""Number of outputs in a row that are tensors, after which a model's output contains no loss."""


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
        returned: Callable[[Given, object], None],
        is_full: Callable[[], bool],
    ) -> None:
        self._guard = guard
        self._receive = receive
        self._returned = returned
        self._is_full = is_full
        self._reported_by_models = loss is None
        self._steps: list[TrainingStep] = []
        self._plain_outputs = 0
        self._is_armed = True
        self._of_models: list[Hooked] = []
        self._hooked = [] if loss is None else [Hooked(loss, self._loss_returned)]
        for model in dict.fromkeys(models.values()):
            if isinstance(model, torch.jit.ScriptModule):
                continue  # torch refuses hooks on it
            self._of_models.append(Hooked(model, self._model_returned, kwargs=True))
            if loss is None and callable(getattr(model, "training_step", None)):
                self._steps.append(TrainingStep(model, self._step_returned))

    def remove(self) -> None:
        """Remove the hooks. Safe to call twice."""
        for hook in (*self._hooked, *self._of_models):
            hook.remove()
        for step in self._steps:
            step.remove()

    def begin(self, is_full: bool) -> int:
        """Start a step; return the number of hooks that are called in it.

        The hooks of the models are absent on a light step if their outputs contain no loss.
        """
        needed = is_full or (self._reported_by_models and self._plain_outputs < PLAIN_OUTPUTS)
        if needed != self._is_armed:
            self._is_armed = needed
            for hook in self._of_models:
                if needed:
                    hook.arm()
                else:
                    hook.disarm()
        return needed + len(self._hooked)

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
                self._returned(given_to(args, kwargs), output)
        if self._reported_by_models and not self._steps:
            if type(output) is Tensor:
                self._plain_outputs += 1
            else:
                self._plain_outputs = 0
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
    """Stands in for a model's `training_step` method (Lightning) and returns its result.

    It is an attribute of the instance, until `remove`; a copy or a pickle of the model has the
    method itself in its place. Not used if the instance already has an attribute of this name.
    """

    def __init__(self, model: nn.Module, receive: Callable[[nn.Module, object], None]) -> None:
        self._model = model
        self._receive = receive
        self.__wrapped__ = model.training_step  # inspect and Lightning unwrap it
        if "training_step" not in model.__dict__:
            model.__dict__["training_step"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.__wrapped__(*args, **kwargs)  # type: ignore[operator]
        if not torch.compiler.is_compiling():
            self._receive(self._model, output)
        return output

    def remove(self) -> None:
        """Restore the method. Safe to call twice."""
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
    """Return the loss if it can be trained with: training mode, with a gradient; otherwise None."""
    if not module.training or not torch.is_grad_enabled():
        return None
    return loss if isinstance(loss, Tensor) and loss.requires_grad else None


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
