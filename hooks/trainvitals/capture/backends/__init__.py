"""The statistics of tensors, computed where the tensors are.

Comes in: the parameters of one optimizer on one device, or the output of a module.
Goes out: rows in the matrices of a `Step`.
`native` is C, for the CPU; `cuda` is Triton; `plain` uses torch operations, for other devices and
for installations without a compiler. All compute the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from trainvitals.capture.backends import cuda, native, plain
from trainvitals.capture.backends.members import Member
from trainvitals.capture.step import Step

__all__ = ["Group", "groups_of"]


class Group(Protocol):
    """The parameters of one optimizer on one device."""

    def norm(self, step: Step, owner: object, unscale: float | Tensor = 1.0) -> None:
        """Write the total of all gradients, times `unscale`."""

    def gradients(
        self, step: Step, owner: object, unscale: float | Tensor = 1.0, *, distinct: bool
    ) -> None:
        """Write the statistics of each gradient and the total; `distinct`: also distinct rows."""

    def weights(self, step: Step, *, frozen: bool, keep: bool, distinct: bool) -> None:
        """Write the statistics of each weight; `frozen`: also of weights that are not trained.

        `keep`: copy the weights, for `updates`.
        """

    def updates(self, step: Step) -> None:
        """Write the statistics of each change since `weights`, if that copied the weights."""

    def release(self) -> None:
        """Release the copies of weights."""


def groups_of(members: Sequence[Member]) -> list[Group]:
    """Return the groups of an optimizer's parameters, one for each device."""
    groups: list[Group] = []
    for device in dict.fromkeys(m.tensor.device for m in members):
        here = [m for m in members if m.tensor.device == device]
        if device.type == "cpu" and native.is_available():
            groups.append(native.NativeGroup(here))
        elif device.type == "cuda" and cuda.is_available(device):
            groups.append(cuda.CudaGroup(here))
        else:
            groups.append(plain.PlainGroup(here))
    return groups
