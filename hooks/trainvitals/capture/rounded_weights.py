"""Observe that float32 weights have only values of a half-precision type.

Comes in: the parameters before a step. Goes out: one event, if the program rounds the weights.
Promise:  reads some entries of some tensors, in two steps of a run, and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from trainvitals.structure.parameters import Parameter
from trainvitals.wire import Event, EventKind, Record

FULL_STEPS: Final = (8, 32)
"""The full steps, counted from 0, before which the weights are read."""
TENSORS_MAX: Final = 8
ENTRIES_MAX: Final = 256
NONZERO_MIN: Final = 16
"""Minimum number of entries that are not 0: all of them end in zero bits by chance with a
probability of 2^(−13·16)."""
_DROPPED_BITS: Final = {"bfloat16": 0xFFFF, "float16": 0x1FFF}
"""The low bits of a float32 that the type does not have: 16 of bfloat16, 13 of float16."""


class RoundedWeights:
    """Emits an event the first time that all matrices that are read are rounded."""

    def __init__(self, emit: Callable[[Record], None]) -> None:
        self._emit = emit
        self._found = False

    def look(self, parameters: Sequence[Parameter], full_steps: int, step: int) -> None:
        """Read trained float32 matrices in host memory, before step `step`."""
        if self._found or full_steps not in FULL_STEPS:
            return
        tensors = [p.tensor.detach() for p in parameters if _can_be_read(p.tensor)][:TENSORS_MAX]
        kinds = {rounded_to(tensor) for tensor in tensors}
        if len(kinds) == 1 and (kind := kinds.pop()):
            self._found = True
            known: dict[str, str | float] = {"parameters": float(len(tensors))}
            self._emit(Event(step, time.time(), EventKind.WEIGHTS_ROUNDED, kind, known))


def _can_be_read(tensor: Tensor) -> bool:
    return (
        tensor.requires_grad
        and tensor.dim() > 1
        and tensor.dtype is torch.float32
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
    )


def rounded_to(tensor: Tensor) -> str:
    """Return the type that holds the first entries of a contiguous float32 tensor exactly.

    "bfloat16" or "float16"; "" if neither does, or if fewer than `NONZERO_MIN` entries are not 0.
    """
    entries = tensor.reshape(-1)[:ENTRIES_MAX]
    bits = entries.view(torch.int32)
    if int(torch.count_nonzero(entries)) < NONZERO_MIN:
        return ""
    for kind, dropped in _DROPPED_BITS.items():
        if not bool((bits & dropped).any()):
            return kind
    return ""
