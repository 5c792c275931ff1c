"""One parameter as the backends use it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainvitals.capture.parameters import local_of, reason_not_measured

ROWS_COMPARED_MAX = 256
ENTRIES_COMPARED_MAX = 1024
"""Maximum number of rows, and of entries of each row, that are compared for `distinct_rows`."""


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
        """The gradient as a plain detached tensor; None if there is none that can be measured."""
        gradient = self.parameter.grad
        if gradient is None or reason_not_measured(local := local_of(gradient)):
            return None
        return local.detach()


def has_rows(tensor: Tensor) -> bool:
    """Whether the rows of `tensor` can be compared."""
    return tensor.dim() >= 2 and tensor.shape[0] >= 2 and tensor.numel() > 0


def is_dense(tensor: Tensor) -> bool:
    """Whether the entries fill one range of memory; the order of entries changes no statistic."""
    return tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
