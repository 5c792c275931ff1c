"""Read and restore the random number generators of Python, NumPy and torch.

Reading changes no generator. Only generators that exist are read: no device is initialised.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class TorchStates(NamedTuple):
    """States of torch's generators, uint8: the one of the CPU, and those of CUDA devices."""

    cpu: Tensor
    cuda: dict[int, Tensor]
    """By the index of the device."""

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return int(self.cpu.nbytes) + sum(state.nbytes for state in self.cuda.values())


class OtherStates(NamedTuple):
    """States of Python's `random` and of NumPy's global generator, as these modules give them."""

    python: tuple[Any, ...]
    numpy: Any


def torch_states(cuda: Collection[int] | None = None) -> TorchStates:
    """Return the states of torch's generators; of all CUDA devices, or of those in `cuda`.

    Takes about a microsecond on the CPU.
    """
    found: dict[int, Tensor] = {}
    if (cuda is None or cuda) and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = range(torch.cuda.device_count()) if cuda is None else cuda
        found = {index: torch.cuda.get_rng_state(index) for index in devices}
    return TorchStates(torch.default_generator.get_state(), found)


def other_states() -> OtherStates:
    """Return the states of Python's and NumPy's generators. Takes about 40 microseconds."""
    return OtherStates(random.getstate(), np.random.get_state())


def restore(of_torch: TorchStates | None, others: OtherStates | None) -> None:
    """Set the generators to earlier states; None leaves them, as do absent CUDA devices."""
    if of_torch is not None:
        torch.set_rng_state(of_torch.cpu)
        for index, state in of_torch.cuda.items():
            if index < torch.cuda.device_count():
                torch.cuda.set_rng_state(state, index)
    if others is not None:
        random.setstate(others.python)
        np.random.set_state(others.numpy)
