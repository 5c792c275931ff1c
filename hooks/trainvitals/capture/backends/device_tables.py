"""Tables of tensors on a device: where they are, how large, and which program reads which part.

Comes in: members of a group. Goes out: the arguments of the kernels, and launches of the first
stage. A table is built once; the addresses in it are copied again only when one of them changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainvitals.capture.backends.members import Member, is_dense
from trainvitals.capture.device import Uploads
from trainvitals.structure.parameters import DTYPES

CHUNK: Final = 8192
"""Number of entries that one program reads."""
WIDTH: Final = 256
"""Number of partial sums that are merged at once."""
OPTIONS: Final = {"enable_fp_fusion": False}
"""Of the compiler: fused operations round differently, and Triton's default changed in 3.10."""
WARPS: Final = 8
EMPTY: Final = 1
"""The address of an empty tensor, which is never read; 0 means that there is no tensor."""
_DTYPES: Final = sorted(DTYPES, key=lambda dtype: DTYPES[dtype])


@cache
def kernels() -> Any:
    """Return the module of kernels; None if triton cannot be imported."""
    try:
        from trainvitals.capture.backends import triton_kernels
    except ImportError:
        return None
    return triton_kernels


class _Launch(NamedTuple):
    dtype: torch.dtype
    first_chunk: int
    chunks: int
    begin: int
    end: int
    """Range of tensors."""


class Table:
    """Counts and chunks of tensors, on the device, in the order of their types.

    `addresses` has the rows data, first and copy, each (tensors,); 0 where there is none.
    """

    def __init__(
        self, members: Sequence[Member], dtypes: Sequence[torch.dtype], uploads: Uploads
    ) -> None:
        numbers = [DTYPES[dtype] for dtype in dtypes]
        order = np.argsort(numbers, kind="stable").tolist()
        self.members = [members[i] for i in order]
        self.dtypes = [dtypes[i] for i in order]
        self.rows = [m.row for m in self.members]
        self.sizes = [m.tensor.numel() for m in self.members]
        self.bytes = [n * d.itemsize for n, d in zip(self.sizes, self.dtypes, strict=True)]
        self._uploads = uploads
        counts = np.array(self.sizes, np.int64)
        chunks = -(-counts // CHUNK)
        starts = np.concatenate([[0], np.cumsum(chunks)])
        self.chunks = int(starts[-1])
        self.launches = []
        for dtype in _DTYPES:
            begin = sum(DTYPES[d] < DTYPES[dtype] for d in self.dtypes)
            end = begin + self.dtypes.count(dtype)
            first, last = int(starts[begin]), int(starts[end])
            if last > first:
                self.launches.append(_Launch(dtype, first, last - first, begin, end))
        device = members[0].tensor.device
        self.counts = _upload(counts, device)
        self.starts = _upload(starts.astype(np.int32), device)
        self.owners = _upload(np.repeat(np.arange(len(counts), dtype=np.int32), chunks), device)
        self.addresses = torch.zeros((3, len(counts)), dtype=torch.int64, device=device)
        self._known: list[list[int]] = [[0] * len(counts)] * 3
        self._alignments = [16] * len(self.launches)

    def __len__(self) -> int:
        return len(self.members)

    def is_current(self) -> bool:
        """Whether the weights still have the sizes and types of the table."""
        return [m.tensor.numel() for m in self.members] == self.sizes and [
            m.tensor.dtype for m in self.members
        ] == self.dtypes

    def set(
        self, data: list[int], first: list[int] | None = None, copies: list[int] | None = None
    ) -> None:
        """Copy the addresses to the device, if one of them changed."""
        none = [0] * len(self)
        addresses = [data, first or none, copies or none]
        if addresses != self._known:
            self._known = addresses
            self._alignments = [self._alignment(launch) for launch in self.launches]
            self._uploads.copy(torch.tensor(addresses, dtype=torch.int64), self.addresses)

    def _alignment(self, launch: _Launch) -> int:
        """Return 16 if every address of the launch is a multiple of 16 bytes, else an entry's."""
        for addresses in self._known:
            if any(a & 15 for a in addresses[launch.begin : launch.end] if a != EMPTY):
                return launch.dtype.itemsize
        return 16

    def partials(self, columns: int) -> Tensor:
        """Return memory for partial sums, shape (columns, chunks)."""
        device = self.addresses.device
        return torch.empty((columns, self.chunks), dtype=torch.float64, device=device)

    def read(self, kernel: Any, pointers: Sequence[Tensor], partials: Tensor, **fixed: Any) -> None:
        """Launch a kernel of the first stage for each type of entry."""
        for launch, alignment in zip(self.launches, self._alignments, strict=True):
            kernel[(launch.chunks,)](
                *pointers,
                self.owners,
                self.starts,
                self.counts,
                partials,
                launch.first_chunk,
                self.chunks,
                TYPE=type_of(launch.dtype),
                WIDE=type_of(wide(launch.dtype)),
                ALIGNMENT=alignment,
                CHUNK=CHUNK,
                num_warps=WARPS,
                **OPTIONS,
                **fixed,
            )


def addresses_of(tensors: Sequence[Tensor | None]) -> tuple[list[int], list[Tensor]]:
    """Return the address of each tensor, 0 for None, and the copies of those that are not dense."""
    addresses, alive = [], []
    for tensor in tensors:
        if tensor is not None and not is_dense(tensor):
            tensor = tensor.detach().contiguous()
            alive.append(tensor)
        # Memory that was freed for a while also has the address 0.
        empty = tensor is not None and tensor.numel() == 0
        addresses.append(EMPTY if empty else 0 if tensor is None else tensor.data_ptr())
    return addresses, alive


def _upload(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Copy an array once, when a table is built."""
    host = torch.from_numpy(array)
    if device.type != "cuda":
        return host
    return host.pin_memory().to(device, non_blocking=True)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which entries of `dtype` are added within a chunk."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def type_of(dtype: torch.dtype) -> Any:
    """Return the type as Triton names it."""
    return getattr(kernels().tl, str(dtype).removeprefix("torch."))
