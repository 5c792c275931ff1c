"""Find a dropout as the last operation before the loss: predictions that are set to zero at random.

Comes in: the loss functions in the graph of a reported loss. Goes out: one event for a run.
Promise:  reads some entries of two masks on the CPU, and nothing on other devices, where a dropout
          is an operation of its own. Silent if the loss compares with something that is trained,
          that has zeros as a dropout leaves them, or is one of several losses.
Start at `DroppedOutputs.event`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainvitals.capture.graph_nodes import operation, saved, shape_of
from trainvitals.capture.loss_criterion import Criterion
from trainvitals.capture.supervised_values import sample
from trainvitals.wire import Event, EventKind

LOSSES: Final = frozenset({
    "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "CrossEntropyLoss", "BCEWithLogitsLoss",
})  # fmt: skip
"""Losses whose prediction must not be zero at random; a probability is no prediction of these."""
ROUNDING: Final = 0.01
"""Relative difference of a factor 1 / (1 − p) in half precision."""


class DroppedOutputs:
    """Examines what the losses of a run compare, until a dropout is found."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self._models = models
        self._mask: Tensor | None = None
        self._is_done = False

    def event(self, step: int, found: Sequence[Criterion]) -> Event | None:
        """Return the event if the only loss of `found` was given the result of a dropout."""
        if self._is_done or len(found) != 1 or found[0].kind not in LOSSES:
            return None
        [criterion] = found
        share = self._share(criterion.source)
        if not 0 < share < 1 or _is_dropped_too(criterion, share):
            return None
        self._is_done = True
        known: dict[str, str | float] = {"probability": share, "loss": criterion.kind}
        return Event(step, time.time(), EventKind.DROPPED_OUTPUT, self._module(share), known)

    def _share(self, node: Any) -> float:
        """Return the probability of the dropout that computed the prediction; 0 without one."""
        name = operation(node)
        if name == "NativeDropout":
            return float(getattr(node, "_saved_p", 0.0))
        if name != "Mul" or len(node.next_functions) != 2:
            return 0.0
        mask = saved(node, "other" if node.next_functions[1][0] is None else "self")
        if None not in [before for before, _ in node.next_functions] or mask is None:
            return 0.0
        if not mask.is_cpu or shape_of(node, 0) not in (None, tuple(mask.shape)):
            return 0.0
        entries = sample(mask.detach()).reshape(-1).float()
        share = self._share_of(entries)
        if not share:
            return 0.0
        # A mask of the program's own is the same again, or has other values.
        last, self._mask = self._mask, entries.clone()
        is_random = last is not None and len(last) == len(entries) and not last.equal(entries)
        return share if is_random else 0.0

    def _share_of(self, entries: Tensor) -> float:
        """Return the p of a module whose masks have the values 0 and 1 / (1 − p); 0 without one."""
        kept = entries[entries != 0]
        if len(kept) == 0 or not bool((kept == kept[0]).all()):
            return 0.0
        factor = float(kept[0])
        fits = [m.p for _, m in self._dropouts() if _fits(m.p, factor)]
        return float(fits[0]) if fits else 0.0

    def _dropouts(self) -> list[tuple[str, nn.Dropout]]:
        """Return the modules by name that set single entries to zero."""
        return [
            (name, module)
            for prefix, model in self._models.items()
            for name, module in model.named_modules(prefix=prefix)
            if isinstance(module, nn.Dropout) and 0 < module.p < 1 and module.training
        ]

    def _module(self, share: float) -> str:
        """Return the name of the module that was called last; "" if it is not known.

        It is the only one of this probability, or the last one of a sequence of modules.
        """
        names = [name for name, m in self._dropouts() if math.isclose(m.p, share, abs_tol=1e-6)]
        if len(names) == 1:
            return names[0]
        ends = {_end_of(prefix, model) for prefix, model in self._models.items()}
        return next((name for name in names if name in ends), "")


def _fits(p: float, factor: float) -> bool:
    return math.isclose(factor * (1 - p), 1, rel_tol=ROUNDING)


def _end_of(name: str, module: nn.Module) -> str:
    """Return the name of the last module of nn.Sequential modules in one another."""
    while isinstance(module, nn.Sequential) and len(module):
        at, module = list(module.named_children())[-1]
        name = f"{name}.{at}" if name else at
    return name


def _is_dropped_too(criterion: Criterion, share: float) -> bool:
    """Whether the targets have zeros as a dropout leaves them: two vectors of one model.

    Class numbers are not vectors. Values on a device are not read.
    """
    target = criterion.target
    if target is None or not target.is_cpu or not target.is_floating_point():
        return False
    if criterion.kind in ("CrossEntropyLoss", "BCEWithLogitsLoss"):
        return False  # they take classes and probabilities
    with torch.no_grad():
        zeros = float((sample(target.detach()) == 0).float().mean())
    return zeros > share / 2
