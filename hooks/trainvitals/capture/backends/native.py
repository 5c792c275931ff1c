"""The C kernels, through ctypes: parameters and outputs on the CPU.

Comes in: tensors in memory. Goes out: rows of float32 matrices.
Promise:  a call costs a few microseconds beyond reading the entries; pointers are kept in tables,
          which are rebuilt when a tensor's memory changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainvitals.capture.backends.members import (
    ENTRIES_COMPARED_MAX,
    ROWS_COMPARED_MAX,
    Member,
    has_rows,
    is_dense,
    spread,
)
from trainvitals.capture.backends.shapes import Shape
from trainvitals.capture.liveness import DEAD_BATCHES, DEAD_SAMPLES, Mode
from trainvitals.capture.step import PARAMETER_STREAMS, Matrix, Step, Total
from trainvitals.structure.parameters import DTYPES, local_of
from trainvitals.wire import STATISTICS, Stat, Stream
from trainvitals.wire.vocabulary import MAGNITUDES

GIL_BYTES_MAX: Final = 32_000_000
"""Tables up to this size are read without releasing the GIL: another thread that takes it may keep
it for 5 ms, longer than the read."""
ALIGNMENT: Final = 64
HUGE_PAGE_BYTES: Final = 2 << 20
"""Size of a large page of memory. With pages of 4 KiB, the kernel that copies the weights of an MLP
(2.7 MB) takes 1.2 times as long."""
_DRIFT: Final = STATISTICS[Stream.WEIGHT].index(Stat.DRIFT_RMS)
_MAGNITUDE: Final = {
    stream: STATISTICS[stream].index(MAGNITUDES[0]) for stream in (Stream.WEIGHT, Stream.GRADIENT)
}
_COLUMNS: Final = {stream: len(STATISTICS[stream]) for stream in PARAMETER_STREAMS}
Integers = npt.NDArray[np.int64]


def _load(loader: type[ctypes.CDLL]) -> Any:
    path = Path(__file__).with_name("_kernels.so")
    if not path.exists():
        return None
    try:
        library: Any = loader(str(path))
        for name in _ARGUMENTS:
            getattr(library, name).argtypes = _ARGUMENTS[name]
    # Built for another machine, or from older sources; `trainvitals doctor` reports it.
    except (OSError, AttributeError):
        return None
    library.tv_distinct_rows.restype = ctypes.c_double
    return library


_P, _N = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS: Final[dict[str, list[Any]]] = {
    "tv_arguments_2": [],  # not called; see parameters.c
    "tv_gradients": [_N, _P, _P, _P, _P, _P, _N, _N, _P],
    "tv_squares": [_N, _P, _P, _P, _P],
    "tv_weights": [_N, _P, _P, _P, _P, _P, _P, _P, _N, _N, _N, _P],
    "tv_updates": [_N, _P, _P, _P, _P, _P, _P, _P, _N],
    "tv_distinct_rows": [_P, ctypes.c_int32, _N, _N, _N, _N],
    "tv_output": [_P, _P, _N, _P, _P, _P],
}
_keeping_gil = _load(ctypes.PyDLL)
_releasing_gil = _load(ctypes.CDLL)


def is_available() -> bool:
    """Whether the compiled kernels are available."""
    return _keeping_gil is not None


class Table:
    """Pointers, counts, types and rows of tensors, as arguments of the kernels.

    Refers to the tensors, so that the pointers stay valid. A tensor that does not fill one range
    of memory is copied. `first` are the addresses of first values, `offsets` the places of copies.
    `kernels` is the library to call; names that end in `_at` are addresses of arrays.
    """

    def __init__(self, tensors: Sequence[Tensor], rows: Sequence[int]) -> None:
        self.tensors = [t if is_dense(t) else t.contiguous() for t in tensors]
        self.is_copied = any(a is not b for a, b in zip(self.tensors, tensors, strict=True))
        self.addresses = [t.data_ptr() for t in self.tensors]
        self.pointers = np.array(self.addresses, np.uintp)
        self.rows = np.array(rows, np.int64)
        self.counts = np.array([t.numel() for t in self.tensors], np.int64)
        self.dtypes = np.array([DTYPES[t.dtype] for t in self.tensors], np.int32)
        self.sizes = np.array([t.element_size() for t in self.tensors], np.int64) * self.counts
        self.bytes = int(self.sizes.sum())
        padded = -(-self.sizes // ALIGNMENT) * ALIGNMENT
        self.offsets: Integers = np.cumsum(padded) - padded
        self.copy_bytes = int(padded.sum())
        self.first: Integers | None = None
        self.trained = np.ones(len(self.tensors), np.bool_)
        self.fixed = (self.counts.ctypes.data, self.dtypes.ctypes.data)
        self.rows_at = self.rows.ctypes.data
        self.pointers_at = self.pointers.ctypes.data
        self.first_at = 0
        self._no_copies = np.zeros(len(self.tensors), np.int64)
        self.no_copies_at = self._no_copies.ctypes.data
        self.size = len(self.tensors)
        self.kernels = _keeping_gil if self.bytes <= GIL_BYTES_MAX else _releasing_gil


class Copies:
    """Memory for the weights before a step, for the trained tensors of a table.

    `memory` is used if it is large enough, otherwise new memory. A frozen tensor has the address 0.
    """

    def __init__(self, table: Table, memory: npt.NDArray[np.uint8] | None) -> None:
        # Whole large pages: numpy asks the system for them in an array of 4 MB or more. The part
        # that is never written takes no memory.
        unit = ALIGNMENT if table.copy_bytes < HUGE_PAGE_BYTES else HUGE_PAGE_BYTES
        needed = _rounded_up(table.copy_bytes, unit) + unit
        if memory is None or len(memory) < needed:
            memory = np.empty(needed, np.uint8)
        self.table = table
        self.memory = memory
        start = _rounded_up(memory.ctypes.data, unit)
        self._all = np.where(table.trained, table.offsets + start, 0)
        self._trained = self._all[table.trained]
        self.all_at = self._all.ctypes.data
        self.trained_at = self._trained.ctypes.data
        self.sizes: list[int] = table.sizes[table.trained].tolist()


def _rounded_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


NO_TENSORS: Final = Table([], [])
_GRADIENT, _LAYOUT, _DTYPE = attrgetter("grad"), attrgetter("layout"), attrgetter("dtype")
_ORDINARY: Final = {Tensor}
_STRIDED: Final = {torch.strided}


class NativeGroup:
    """The parameters of one optimizer in host memory."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = list(members)
        self._parameters = [m.parameter for m in members]
        self._dtypes = [m.tensor.dtype for m in members]
        self._pointers: Any = ctypes.c_uint64 * len(members)
        self._has_shards = any(m.is_shard for m in members)
        self._all = self._table(self._members)
        self._moving = [m for m in members if m.is_trained]
        self._trained = self._table(self._moving)
        self._weights = [m.tensor for m in members]
        self._moving_weights = [m.tensor for m in self._moving]
        self._totals: Any = (ctypes.c_double * 2)()
        # Σx² of each row's weight before the step.
        self._squares = np.zeros(1 + max((m.row for m in members), default=0))
        self._squares_at = self._squares.ctypes.data
        self._copies: Copies | None = None
        self._has_copies = False

    def norm(self, step: Step, owner: object, unscale: float | Tensor = 1.0) -> None:
        """Write the total of all gradients."""
        table, pointers = self._gradients()
        if table.size:
            table.kernels.tv_squares(table.size, pointers, *table.fixed, self._totals)
            self._put_total(step, owner, float(unscale))

    def gradients(
        self, step: Step, owner: object, unscale: float | Tensor = 1.0, *, distinct: bool
    ) -> None:
        """Write the statistics of each gradient and the total."""
        table, pointers = self._gradients()
        if not table.size:
            return
        table.kernels.tv_gradients(
            table.size,
            table.rows_at,
            pointers,
            *table.fixed,
            step.address(Stream.GRADIENT),
            _COLUMNS[Stream.GRADIENT],
            _MAGNITUDE[Stream.GRADIENT],
            self._totals,
        )
        self._put_total(step, owner, float(unscale))
        matrix = step.matrix(Stream.GRADIENT)
        if table is not self._all:
            self._spread(table, matrix)
        if unscale != 1.0:
            matrix[table.rows, :6] *= float(unscale)  # the others count entries
            at = _MAGNITUDE[Stream.GRADIENT]
            matrix[table.rows, at : at + len(MAGNITUDES)] *= float(unscale)
        if distinct:
            whole = [(m.row, g) for m, g in self._found() if not m.is_part(g)]
            _write_distinct_rows(step, Stream.GRADIENT, whole)

    def weights(self, step: Step, *, frozen: bool, keep: bool, distinct: bool) -> None:
        """Write the statistics of each weight, and copy the trained ones if `keep`."""
        table = self._fresh(frozen=frozen)
        members = self._members if frozen else self._moving
        if not table.size:
            return
        if table.first is None:
            table.first = np.array([m.first_address for m in members], np.int64)
            table.first_at = table.first.ctypes.data
            table.trained = np.array([m.is_trained for m in members])
        copies = self._reserve(table) if keep else None
        self._has_copies = keep
        table.kernels.tv_weights(
            table.size,
            table.rows_at,
            table.pointers_at,
            *table.fixed,
            table.first_at,
            table.no_copies_at if copies is None else copies.all_at,
            step.address(Stream.WEIGHT),
            _COLUMNS[Stream.WEIGHT],
            _DRIFT,
            _MAGNITUDE[Stream.WEIGHT],
            self._squares_at,
        )
        if distinct:
            found = [(m.row, m.tensor.detach()) for m in self._members]
            _write_distinct_rows(step, Stream.WEIGHT, found)

    def updates(self, step: Step) -> None:
        """Write the statistics of each change since `weights`."""
        before = self._copies
        if before is None or not self._has_copies:
            return
        self._has_copies = False
        table = self._fresh(frozen=False)
        if table is not before.table and table.sizes.tolist() != before.sizes:
            return  # a weight was replaced inside the step: not an update
        table.kernels.tv_updates(
            table.size,
            table.rows_at,
            before.trained_at,
            table.pointers_at,
            *table.fixed,
            self._squares_at,
            step.address(Stream.UPDATE),
            _COLUMNS[Stream.UPDATE],
        )

    def release(self) -> None:
        """Release the copies of weights."""
        self._copies, self._has_copies = None, False

    def _put_total(self, step: Step, owner: object, unscale: float) -> None:
        squares, nonfinite = self._totals
        step.totals[id(owner)] = Total(squares * unscale**2, nonfinite)

    def _table(self, members: Sequence[Member]) -> Table:
        return Table([m.tensor.detach() for m in members], [m.row for m in members])

    def _fresh(self, *, frozen: bool) -> Table:
        """Return the table of the weights, built anew if a tensor's memory changed."""
        table = self._all if frozen else self._trained
        weights = self._weights if frozen else self._moving_weights
        if not table.is_copied and list(map(Tensor.data_ptr, weights)) == table.addresses:
            return table
        table = self._table(self._members if frozen else self._moving)
        if frozen:
            self._all = table
        else:
            self._trained = table
        return table

    def _gradients(self) -> tuple[Table, Any]:
        """Return the table of the gradients and their pointers; an empty table without gradients.

        This runs at every step: the counts and types of an ordinary gradient are those of its
        weight, so only the pointers are read. A missing gradient has the pointer 0.
        """
        gradients = list(map(_GRADIENT, self._parameters))
        # Mostly all of them are ordinary: no loop in Python.
        if (
            set(map(type, gradients)) == _ORDINARY
            and set(map(_LAYOUT, gradients)) == _STRIDED
            and list(map(_DTYPE, gradients)) == self._dtypes
            and all(map(Tensor.is_contiguous, gradients))
        ):
            filled = list(map(Tensor.data_ptr, gradients))
            if all(filled):  # an empty tensor has the address 0
                return self._all, self._pointers(*filled)
        addresses, present = [], False
        for gradient, dtype in zip(gradients, self._dtypes, strict=True):
            if gradient is None:
                addresses.append(0)
                continue
            if self._has_shards:
                gradient = local_of(gradient)
            if (
                type(gradient) is not Tensor
                or gradient.layout is not torch.strided
                or gradient.dtype is not dtype
                or not gradient.is_contiguous()
            ):
                found = self._found()
                table = Table([g for _, g in found], [m.row for m, _ in found])
                return table, self._pointers(*(a or 1 for a in table.addresses))
            addresses.append(gradient.data_ptr() or 1)  # an empty one has the address 0
            present = True
        return (self._all if present else NO_TENSORS), self._pointers(*addresses)

    def _found(self) -> list[tuple[Member, Tensor]]:
        return [(m, g) for m in self._members if (g := m.gradient) is not None]

    def _spread(self, table: Table, matrix: Matrix) -> None:
        """Correct the rows of sparse gradients, of which only the entries they have were read."""
        members = {m.row: m for m in self._members}
        for row, gradient in zip(table.rows.tolist(), table.tensors, strict=True):
            if members[row].is_part(gradient):
                entries = members[row].tensor.numel()
                matrix[row] = spread(matrix[row].astype(np.float64), gradient, entries)

    def _reserve(self, table: Table) -> Copies:
        """Return the memory for copies of a table's tensors."""
        if self._copies is None or self._copies.table is not table:
            memory = None if self._copies is None else self._copies.memory
            self._copies = Copies(table, memory)
        return self._copies


class Prepared:
    """The arguments of the kernel for outputs of one shape; `idle` is from `Liveness.native`."""

    def __init__(self, shape: Shape, dtype: torch.dtype, mode: Mode, idle: Integers | None) -> None:
        self.start = shape.start
        self._struct = np.array(
            [*shape[:-1], DTYPES[dtype], mode, DEAD_BATCHES, DEAD_SAMPLES], np.int64
        )
        self._idle = idle
        self.struct_at = self._struct.ctypes.data
        self.idle_at = None if idle is None else idle.ctypes.data
        units = shape.channels * shape.positions
        self.scratch_floats = (5 + shape.samples) * units + 2


class OutputKernel:
    """Measures outputs in host memory, one at a time."""

    def __init__(self) -> None:
        self.is_available = is_available()
        self._scratch = np.empty(0, np.float64)
        self._scratch_at = 0

    def measure(self, address: int, prepared: Prepared, row_at: int) -> None:
        """Write the statistics of a dense output into the float32 row at the address `row_at`."""
        if prepared.scratch_floats > 2 * len(self._scratch):
            self._scratch = np.empty(prepared.scratch_floats // 2 + 1, np.float64)
            self._scratch_at = self._scratch.ctypes.data
        _keeping_gil.tv_output(
            address,
            prepared.struct_at,
            prepared.start,
            prepared.idle_at,
            self._scratch_at,
            row_at,
        )


def _write_distinct_rows(step: Step, stream: Stream, found: list[tuple[int, Tensor]]) -> None:
    column = STATISTICS[stream].index(Stat.DISTINCT_ROWS)
    for row, tensor in found:
        if has_rows(tensor):
            step.matrix(stream)[row, column] = distinct_rows(tensor)


def distinct_rows(tensor: Tensor) -> float:
    """Return the number of distinct rows over the number of rows, 1/rows to 1.

    Rows are compared with a tolerance of about 1e-5 of the tensor's largest entry, because equal
    units have equal gradients only up to rounding. Of large tensors, up to 256 rows and 256
    entries of each are compared, evenly spaced. NaN if an entry is not finite.
    """
    x = tensor.contiguous()
    rows, entries = x.shape[0], x.numel() // x.shape[0]
    share: float = _keeping_gil.tv_distinct_rows(
        x.data_ptr(),
        DTYPES[x.dtype],
        rows,
        entries,
        -(-rows // ROWS_COMPARED_MAX),
        -(-entries // ENTRIES_COMPARED_MAX),
    )
    return share
