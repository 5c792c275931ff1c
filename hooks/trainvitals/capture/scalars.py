"""Collect the losses and other scalars between two optimizer steps.

Comes in: numbers and scalar tensors. Goes out: `Taken`, from which the scalars of a step are
computed later, for many steps at once: in the middle of a training step, Python code and its data
are not in the processor's caches, and each function costs some microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

from trainvitals.wire import Scalar

Number = float | int | Tensor
Loss = Number | Mapping[str, Number]
"""A loss, or its terms by name."""

TOTAL: Final = "loss"
"""The name of the total in a dict of loss terms; without it, the loss is the sum of the terms."""


class Taken(NamedTuple):
    """What was collected in one step. `on_device` is whether a value is on a device."""

    losses: list[Tensor | float]
    others: dict[str, Tensor | float]
    terms: dict[str, tuple[Tensor | float, int]]
    are_parts: bool
    on_device: bool
    nonfinite: bool
    """Whether a loss is known to be non-finite."""

    def scalars(self) -> dict[str, float | Tensor]:
        """Return the step's scalars by name; tensors if they are on a device."""
        losses, taken = self.losses, self.others.copy()
        for name, (total, count) in self.terms.items():
            taken[f"{Scalar.LOSS_TERM}/{name}"] = total / count
        if len(losses) > 1:
            taken[Scalar.MICRO_BATCHES] = float(len(losses))
        numbers = [x for x in losses if type(x) is float]
        if losses and len(numbers) == len(losses):
            finite = [x for x in numbers if math.isfinite(x)]
            count = 1 if self.are_parts else len(finite)
            taken[Scalar.LOSS] = sum(finite) / count if finite else math.nan
            taken[Scalar.NONFINITE_LOSS] = float(len(losses) - len(finite))
        elif losses:
            stacked = torch.stack([x for x in losses if isinstance(x, Tensor)]).float()
            finite_on_device = torch.isfinite(stacked)
            sum_of_finite = torch.where(finite_on_device, stacked, 0.0).sum()
            count_on_device = finite_on_device.sum()
            if self.are_parts:
                count_on_device = count_on_device.clamp(max=1)
            taken[Scalar.LOSS] = sum_of_finite / count_on_device
            taken[Scalar.NONFINITE_LOSS] = (~finite_on_device).sum().float()
        return taken


class StepScalars:
    """Collects the scalars between two optimizer steps; micro-batches are averaged."""

    def __init__(self) -> None:
        self._logged: list[Tensor | float] = []
        self._hooked: list[Tensor | float] = []
        self._others: dict[str, Tensor | float] = {}
        self._terms: dict[str, tuple[Tensor | float, int]] = {}
        self._on_device = self._nonfinite = False
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
        if type(number) is not float:
            self._on_device = True
            return False
        if math.isfinite(number):
            return False
        self._nonfinite = True
        return True

    def terms(self, value: Loss, allowed: Callable[[object], str | None]) -> None:
        """Add the terms of a training loss; the micro-batches of a step are averaged.

        `allowed` returns the name under which a term is stored, None for a name too many.
        """
        if isinstance(value, Tensor) or not isinstance(value, Mapping):
            return
        for given, term in value.items():
            if given != TOTAL and term is not None and (name := allowed(given)) is not None:
                total, count = self._terms.get(name, (0.0, 0))
                added = self._terms[name] = (total + scalar_of(term), count + 1)
                self._on_device |= isinstance(added[0], Tensor)

    def log(self, scalars: Mapping[str, Number]) -> None:
        """Add other scalars by their full names; the newest value of a step counts."""
        for name, value in scalars.items():
            number = self._others[name] = scalar_of(value)
            self._on_device |= isinstance(number, Tensor)

    def take(self) -> Taken:
        """Return what was collected in this step, and begin the next one."""
        losses = self._logged or self._hooked
        taken = Taken(
            losses, self._others, self._terms, self.are_parts, self._on_device, self._nonfinite
        )
        self._logged, self._hooked, self._others, self._terms = [], [], {}, {}
        self._on_device = self._nonfinite = False
        return taken


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
