"""One step while it is measured: what the backends write and what is emitted."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainvitals.capture.scalars import Taken
from trainvitals.wire import STATISTICS, Scalar, Stream

Matrix = npt.NDArray[np.float32]
PARAMETER_STREAMS: Final = (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE)


class Total(NamedTuple):
    """Of the gradients of one optimizer: Σx², NaN if an entry is not finite, and the number of
    tensors with such an entry."""

    squares: float
    nonfinite: float


class Remote(NamedTuple):
    """Values on a device: rows of a stream's matrix, the total of an optimizer, or a scalar."""

    values: Tensor
    key: Stream | int | str
    """A stream, the id of an optimizer, or the name of a scalar."""
    rows: Sequence[int] = ()
    column: int = 0


@dataclass(slots=True)
class Step:
    """The matrices of a step, shape (places, statistics), float32, NaN where not measured.

    A backend on the CPU writes into `matrix`; others add to `remote`, which transfer.py copies to
    the host and gives to `arrived`.

    `norm_name` is the scalar of the total gradient norm, "" for none; of sharded parameters it is
    divided by the root of the number of ranks that hold the same shard.
    """

    rows: int
    matrices: dict[Stream, Matrix] = field(default_factory=dict)
    totals: dict[int, Total] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    remote: list[Remote] = field(default_factory=list)
    norm_name: str = Scalar.GRADIENT_NORM
    replicas: int = 1
    taken: Taken | None = None
    """Scalars that the training reported, none of them on a device."""
    is_finished: bool = True
    """False if an exception ended the step."""
    _clipped: list[str] = field(default_factory=list)
    """Names in `scalars` of the optimizers' norms before clipping."""
    _addresses: dict[Stream, int] = field(default_factory=dict)

    def matrix(self, stream: Stream) -> Matrix:
        """Return the matrix of a stream of parameters; all NaN at first."""
        if stream not in self.matrices:
            self.matrices[stream] = empty(self.rows, stream)
        return self.matrices[stream]

    def address(self, stream: Stream) -> int:
        """Return the address of the first entry of `matrix(stream)`, for several kernels."""
        if stream not in self._addresses:
            self._addresses[stream] = self.matrix(stream).ctypes.data
        return self._addresses[stream]

    @property
    def is_nonfinite(self) -> bool:
        """Whether a loss or a gradient of the step is known to be non-finite."""
        of_loss = self.taken.nonfinite if self.taken else self.scalars.get(Scalar.NONFINITE_LOSS)
        return bool(of_loss) or self.has_nonfinite_gradient

    @property
    def has_nonfinite_gradient(self) -> bool:
        """Whether a gradient of the step is known to be non-finite."""
        return any(total.nonfinite for total in self.totals.values())

    def put(self, stream: Stream, rows: Sequence[int], values: Tensor, column: int = 0) -> None:
        """Add rows of a stream, shape (rows, statistics from `column` on)."""
        self._add(Remote(values, stream, rows, column))

    def put_total(self, owner: object, values: Tensor) -> None:
        """Add the total of an optimizer's gradients, shape (2,): squares, nonfinite."""
        self._add(Remote(values, id(owner)))

    def put_scalar(self, name: str, value: float | Tensor) -> None:
        """Add a scalar of the step."""
        if isinstance(value, Tensor):
            self._add(Remote(value, name))
        elif name == Scalar.SKIPPED_STEP:  # of any optimizer
            self.scalars[name] = max(value, self.scalars.get(name, value))
        else:
            self.scalars[name] = value

    def put_taken(self, taken: Taken) -> None:
        """Add the scalars that the training reported."""
        if not taken.on_device:
            self.taken = taken
            return
        for name, value in taken.scalars().items():
            self.put_scalar(name, value)

    def put_clipped(self, owner: object, norm: float | Tensor) -> None:
        """Add the norm of an optimizer's gradients before clipping."""
        name = f"{Scalar.GRADIENT_NORM_BEFORE_CLIPPING}/{id(owner)}"
        self._clipped.append(name)
        self.put_scalar(name, norm)

    def arrived(self, remote: Remote, values: npt.NDArray[np.floating]) -> None:
        """Write values that are in host memory now."""
        key = remote.key
        if isinstance(key, Stream):
            columns = slice(remote.column, remote.column + values.shape[1])
            self.matrix(key)[list(remote.rows), columns] = values
        elif isinstance(key, int):
            self.totals[key] = Total(float(values[0]), float(values[1]))
        else:
            self.scalars[key] = float(values.reshape(-1)[0])

    def all_scalars(self) -> dict[str, float]:
        """Return the scalars, with the total of all optimizers' gradients if it was measured."""
        scalars = self.scalars.copy()
        if self.taken is not None:
            for name, value in self.taken.scalars().items():
                scalars[name] = float(value)
        clipped = [scalars.pop(name) for name in dict.fromkeys(self._clipped) if name in scalars]
        if not self.totals:
            return scalars
        totals = self.totals.values()
        if self.norm_name:
            squares = sum(t.squares for t in totals)
            scalars[self.norm_name] = (squares / self.replicas) ** 0.5
        scalars[Scalar.NONFINITE_GRADIENTS] = sum(t.nonfinite for t in totals)
        if len(clipped) == len(totals):
            scalars[Scalar.GRADIENT_NORM_BEFORE_CLIPPING] = math.hypot(*clipped)
        return scalars

    def _add(self, remote: Remote) -> None:
        if remote.values.is_cpu:
            self.arrived(remote, remote.values.numpy())
        else:
            self.remote.append(remote)


def empty(rows: int, stream: Stream) -> Matrix:
    """Return a matrix of NaN, shape (rows, statistics of the stream)."""
    return _all_nan(rows, stream).copy()


@functools.lru_cache(maxsize=8)
def _all_nan(rows: int, stream: Stream) -> Matrix:
    return np.full((rows, len(STATISTICS[stream])), np.nan, np.float32)
