"""The losses and other scalars of the step that is under way."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from trainvitals.capture.transfer import Block
from trainvitals.wire import Scalar

Number = float | int | Tensor


class StepScalars:
    """Collects what is logged between two optimizer steps; micro-batches are averaged."""

    def __init__(self) -> None:
        self._logged: list[Tensor | float] = []
        self._hooked: list[Tensor | float] = []
        self._others: dict[str, Tensor | float] = {}

    def loss(self, value: Number, *, hooked: bool = False) -> bool:
        """Take one micro-batch's training loss in; return whether it is known to be non-finite.

        A loss that the loss module's hook saw counts only in steps without `monitor.loss`.
        """
        number = scalar_of(value)
        (self._hooked if hooked else self._logged).append(number)
        return isinstance(number, float) and not math.isfinite(number)

    def log(self, scalars: Mapping[str, Number]) -> None:
        """Take other scalars in, by their full names; the newest of a step counts."""
        for name, value in scalars.items():
            self._others[name] = scalar_of(value)

    def take(self) -> dict[str, float | Block]:
        """Return the step's scalars by name, as tensors while on a device, and start anew."""
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


def scalar_of(value: Number) -> Tensor | float:
    """Return a number as float, or as a detached scalar tensor while it is on a device.

    A tensor of more entries (reduction="none") counts as their mean.
    """
    if not isinstance(value, Tensor):
        return float(value)
    value = value.detach()
    if value.numel() != 1:
        value = value.float().mean()
    return float(value) if value.device.type == "cpu" else value.reshape(())
