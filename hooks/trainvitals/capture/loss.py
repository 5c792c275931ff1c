"""Collect the losses and other scalars of the current step."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from trainvitals.capture.transfer import Block
from trainvitals.wire import Scalar

Number = float | int | Tensor

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


class StepScalars:
    """Collects the scalars between two optimizer steps; micro-batches are averaged."""

    def __init__(self) -> None:
        self._logged: list[Tensor | float] = []
        self._hooked: list[Tensor | float] = []
        self._others: dict[str, Tensor | float] = {}
        self.seen = False
        """Whether a training loss was recorded in this run."""
        self.logged = False
        """Whether a training loss was recorded by `monitor.loss`, not by a hook."""

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

    def log(self, scalars: Mapping[str, Number]) -> None:
        """Add other scalars by their full names; the newest value of a step counts."""
        for name, value in scalars.items():
            self._others[name] = scalar_of(value)

    def take(self) -> dict[str, float | Block]:
        """Return the step's scalars by name and reset; tensors if they are on a device."""
        losses = self._logged or self._hooked
        taken: dict[str, float | Block] = dict(self._others)
        if losses and all(isinstance(x, float) for x in losses):
            finite = [x for x in losses if isinstance(x, float) and math.isfinite(x)]
            taken[Scalar.LOSS] = sum(finite) / len(finite) if finite else float("nan")
            taken[Scalar.NONFINITE_LOSS] = float(len(losses) - len(finite))
        elif losses:
            stacked = torch.stack([x for x in losses if isinstance(x, Tensor)]).float()
            finite_on_device = torch.isfinite(stacked)
            total = torch.where(finite_on_device, stacked, 0.0).sum()
            taken[Scalar.LOSS] = total / finite_on_device.sum()
            taken[Scalar.NONFINITE_LOSS] = (~finite_on_device).sum().float()
        self._logged, self._hooked, self._others = [], [], {}
        return taken


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
    value = value.detach()
    if value.numel() != 1:
        value = value.float().mean()
    return float(value) if value.device.type == "cpu" else value.reshape(())
