"""What a program of the bench states about itself: how it trains, and when it has learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import nn
from torch.optim import Optimizer

T = TypeVar("T")
Setting = Mapping[str, Any]


class Monitor(Protocol):
    """The part of `trainvitals.Monitor` that a training loop needs."""

    def loss(self, value: T) -> T: ...


class Watch(Protocol):
    """`trainvitals.watch` with its default options."""

    def __call__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: Optimizer | Sequence[Optimizer],
    ) -> Monitor: ...


@dataclass(frozen=True)
class Program:
    """A healthy training.

    `train(watch, **setting)` seeds torch, trains, and returns the metric on held-out data; one
    setting is one run. `healthy` is the value that the metric must reach: at least, or at most if
    `lower_is_better`.
    """

    train: Callable[..., float]
    metric: str
    healthy: float
    settings: tuple[Setting, ...]
    lower_is_better: bool = False

    def has_learned(self, metric: float) -> bool:
        """Return whether the metric reaches the stated value; NaN does not."""
        return metric <= self.healthy if self.lower_is_better else metric >= self.healthy


def name_of(setting: Setting) -> str:
    """Return the setting as text: `seed=0 width=64`."""
    return " ".join(f"{key}={value}" for key, value in setting.items())
