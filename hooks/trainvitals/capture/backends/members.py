"""One parameter as the backends use it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainvitals.capture.parameters import reason_not_measured

ROWS_COMPARED_MAX = 256
ENTRIES_COMPARED_MAX = 1024
"""Maximum number of rows, and of entries of each row, that are compared for `distinct_rows`."""


@dataclass
class Member:
    """A parameter tensor, its row in the matrices, and its first value.

    `first` is a copy of a one-dimensional tensor at its first measurement: the drift is measured
    from it. None for other tensors.
    """

    tensor: Tensor
    row: int
    first: Tensor | None = None

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
        gradient = self.tensor.grad
        if gradient is None or reason_not_measured(gradient):
            return None
        return gradient.detach()


def has_rows(tensor: Tensor) -> bool:
    """Whether the rows of `tensor` can be compared."""
    return tensor.dim() >= 2 and tensor.shape[0] >= 2 and tensor.numel() > 0


def is_dense(tensor: Tensor) -> bool:
    """Whether the entries fill one range of memory; the order of entries changes no statistic."""
    return tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
