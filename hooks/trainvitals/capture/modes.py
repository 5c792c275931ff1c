"""Which modules that act differently in eval mode are in it while a training loss is taken.

Comes in: the models of a run. Goes out: shares of their modules, as scalars of a step.
Promise:  no tensor is read; the modules are searched once in 64 calls.
Start at `Modes.shares`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from trainvitals.wire import Scalar

RESCAN: Final = 64
"""Number of measured losses between two searches for modules."""


class Modes:
    """The modules of one run with running statistics, and those with a dropout."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self._models = models
        self._taken = 0
        self._found: dict[Scalar, tuple[nn.Module, ...]] = {}

    def shares(self) -> dict[str, float]:
        """Return the shares of the modules in eval mode, 0 to 1; without a kind there is none."""
        if self._taken % RESCAN == 0:
            self._found = _found(m for model in self._models.values() for m in model.modules())
        self._taken += 1
        return {
            scalar: sum(not m.training for m in modules) / len(modules)
            for scalar, modules in self._found.items()
        }


def drops(module: nn.Module) -> bool:
    """Whether the module itself sets random entries to zero in train mode."""
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0 and module.num_layers > 1  # it acts between the layers only
    return isinstance(module, nn.MultiheadAttention) and module.dropout > 0


def _found(modules: Iterable[nn.Module]) -> dict[Scalar, tuple[nn.Module, ...]]:
    """Return the modules by the scalar of their share, without kinds that the models lack."""
    every = [*modules]
    kinds = {
        Scalar.NORM_EVAL_SHARE: tuple(
            m for m in every if isinstance(m, _NormBase) and m.running_mean is not None
        ),
        Scalar.DROPOUT_EVAL_SHARE: tuple(m for m in every if drops(m)),
    }
    return {scalar: found for scalar, found in kinds.items() if found}
