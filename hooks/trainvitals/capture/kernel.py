"""Statistics of many tensors in one call: the native kernel, and the same functions in torch.

Comes in: detached tensors. Goes out: float32 arrays, one row for each tensor.
Promise:  both return the same numbers; the native kernel is used for CPU tensors if the package
          was built with a compiler, torch otherwise (see `has_native`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

COLUMNS: Final = 8
"""mean, std, min, max, abs_mean, l2, zero_share, nonfinite: the order of the wire's columns."""
DTYPES: Final = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

Floats = npt.NDArray[np.float32]


def _load() -> ctypes.CDLL | None:
    path = Path(__file__).with_name("_kernel.so")
    if not path.exists():
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # built for another machine; `trainvitals doctor` reports it
        return None


_native = _load()


def has_native() -> bool:
    """Whether the compiled kernel is available."""
    return _native is not None


class Table:
    """Pointers, counts and types of dense CPU tensors, as arguments of the kernel.

    Holds references to the tensors, so that the pointers stay valid.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [t if _is_dense(t) else t.contiguous() for t in tensors]
        self.pointers = np.array([t.data_ptr() for t in self.tensors], np.uintp)
        self.counts = np.array([t.numel() for t in self.tensors], np.int64)
        self.dtypes = np.array([DTYPES[t.dtype] for t in self.tensors], np.int32)

    def __len__(self) -> int:
        return len(self.tensors)


def is_native(tensors: Sequence[Tensor]) -> bool:
    """Whether the kernel can process all of `tensors`."""
    return _native is not None and all(t.device.type == "cpu" for t in tensors)


def statistics(tensors: Sequence[Tensor]) -> Floats | Tensor:
    """Return the COLUMNS of each tensor, shape (tensors, 8), float32.

    A NumPy array for CPU tensors, otherwise a tensor on their device, without synchronisation.
    Moments are over finite entries; NaN for a tensor without any.
    """
    if not is_native(tensors):
        return _stacked([_statistics(t) for t in tensors], COLUMNS)
    table = Table(tensors)
    out = np.empty((len(table), COLUMNS), np.float32)
    _call("tv_statistics", table, _at(table.pointers), _at(table.counts), _at(table.dtypes), out)
    return out


def squares(tensors: Sequence[Tensor]) -> npt.NDArray[np.float64] | Tensor:
    """Return Σx² of each tensor, shape (tensors,); non-finite exactly if an entry is."""
    if not is_native(tensors):
        norms = [t.double().square().sum().reshape(1) for t in tensors]
        if not norms:
            return np.empty(0, np.float64)
        stacked = torch.cat([n.to(norms[0].device, non_blocking=True) for n in norms])
        return stacked.numpy() if stacked.device.type == "cpu" else stacked
    table = Table(tensors)
    out = np.empty(len(table), np.float64)
    _call("tv_squares", table, _at(table.pointers), _at(table.counts), _at(table.dtypes), out)
    return out


def differences(before: Sequence[Tensor], after: Sequence[Tensor]) -> Floats | Tensor:
    """Return RMS and mean of after − before for each pair, shape (tensors, 2)."""
    if not is_native(after):
        rows = []
        for old, new in zip(before, after, strict=True):
            d = new.double() - old.double()
            rows.append(torch.stack([d.square().mean().sqrt(), d.mean()]).float())
        return _stacked(rows, 2)
    old_table, table = Table(before), Table(after)
    out = np.empty((len(table), 2), np.float32)
    _call(
        "tv_differences",
        table,
        _at(old_table.pointers),
        _at(table.pointers),
        _at(table.counts),
        _at(table.dtypes),
        out,
    )
    return out


def _call(name: str, table: Table, *arguments: object) -> None:
    *pointers, out = arguments
    assert isinstance(out, np.ndarray)  # noqa: S101 - for mypy: the last argument is the output
    getattr(_native, name)(ctypes.c_int64(len(table)), *pointers, _at(out))


def _at(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _is_dense(tensor: Tensor) -> bool:
    # The statistics do not depend on the order of entries, so channels_last needs no copy.
    return tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _statistics(tensor: Tensor) -> Tensor:
    x = tensor.reshape(-1).double()
    if x.numel() == 0:
        empty = torch.full((COLUMNS,), float("nan"), device=x.device)
        empty[7] = 0
        return empty
    finite = torch.isfinite(x)
    count = finite.sum()
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    infinity = torch.full((), float("inf"), dtype=x.dtype, device=x.device)
    kept = torch.where(finite, x, zero)
    mean = kept.sum() / count
    m2 = torch.where(finite, (x - mean).square(), zero).sum()
    row = torch.stack(
        [
            mean,
            (m2 / count).sqrt(),
            torch.where(finite, x, infinity).min(),
            torch.where(finite, x, -infinity).max(),
            kept.abs().sum() / count,
            kept.square().sum().sqrt(),
        ]
    )
    row = torch.where(count > 0, row, float("nan"))
    rest = torch.stack([(x == 0).double().mean(), (~finite).sum().double()])
    return torch.cat([row, rest]).float()


def _stacked(rows: list[Tensor], columns: int) -> Floats | Tensor:
    if not rows:
        return np.empty((0, columns), np.float32)
    stacked = torch.stack([row.to(rows[0].device, non_blocking=True) for row in rows])
    return stacked.numpy() if stacked.device.type == "cpu" else stacked
