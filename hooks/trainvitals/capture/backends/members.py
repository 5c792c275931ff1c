"""One parameter as the backends use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainvitals.structure.parameters import local_of, reason_not_measured

ROWS_COMPARED_MAX = 256
ENTRIES_COMPARED_MAX = 256
"""Maximum number of rows, and of entries of each row, that are compared for `distinct_rows`."""
Row = TypeVar("Row", Tensor, npt.NDArray[np.floating])


@dataclass
class Member:
    """A parameter, its row in the matrices, its first value, and its entries in this process.

    `first` is a copy of a one-dimensional tensor at its first measurement: the drift is measured
    from it. None for other tensors. `tensor` is the parameter itself, or of a DTensor the shard.
    """

    parameter: Tensor
    row: int
    first: Tensor | None = None
    tensor: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Unwrap the shard: every operation on a DTensor itself is slow, and some communicate."""
        self.tensor = local_of(self.parameter)

    @property
    def is_shard(self) -> bool:
        """Whether the parameter is a DTensor."""
        return self.tensor is not self.parameter

    @property
    def is_trained(self) -> bool:
        """Whether the parameter needs a gradient."""
        return self.parameter.requires_grad

    @property
    def first_address(self) -> int:
        """Address of `first`; 0 if the tensor's size or type is not that of `first` any more."""
        return self.first.data_ptr() if self.first is not None and self.has_first else 0

    @property
    def has_first(self) -> bool:
        """Whether `first` can be compared with the tensor."""
        first, tensor = self.first, self.tensor
        return first is not None and first.shape == tensor.shape and first.dtype == tensor.dtype

    @property
    def gradient(self) -> Tensor | None:
        """The gradient as a plain detached tensor; None if there is none that can be measured.

        Of a sparse gradient, the entries that it has: `spread` makes the statistics of all.
        """
        gradient = self.parameter.grad
        if gradient is None:
            return None
        local = local_of(gradient).detach()
        if local.layout is torch.sparse_coo:
            local = local.coalesce().values()  # an entry may be given in several parts
        return None if reason_not_measured(local) else local

    def is_part(self, gradient: Tensor) -> bool:
        """Whether `gradient` has only some of the entries: it is sparse."""
        return gradient.numel() < self.tensor.numel()


def spread(row: Row, part: Tensor, entries: int) -> Row:
    """Return the statistics of `entries` entries, of which those outside `part` are 0.

    `row` has those of `part`: mean, std, min, max, abs_mean, l2, zero_share, nonfinite, and NaN.
    """
    if not part.numel():
        nothing = row * 0
        nothing[:8] = 0
        nothing[6] = 1
        return nothing
    mean, std, low, high, abs_mean, l2, zero_share, nonfinite = row[:8]
    some, every = part.numel() - nonfinite, entries - nonfinite
    share = some / every
    whole = mean * share
    variance = share * (std**2 + (mean - whole) ** 2) + (1 - share) * whole**2
    zeros = (zero_share * part.numel() + entries - part.numel()) / entries
    spread = row + 0  # a copy, of arrays and of tensors
    for column, value in enumerate(
        (whole, variance**0.5, low * (low < 0), high * (high > 0), abs_mean * share, l2, zeros)
    ):
        spread[column] = value
    return spread


def has_rows(tensor: Tensor) -> bool:
    """Whether the rows of `tensor` can be compared."""
    return tensor.dim() >= 2 and tensor.shape[0] >= 2 and tensor.numel() > 0


def is_dense(tensor: Tensor) -> bool:
    """Whether the entries fill one range of memory; the order of entries changes no statistic."""
    return tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
