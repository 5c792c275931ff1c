"""The statistics of parameters on a CUDA device, by Triton kernels.

Comes in: tensors on one device. Goes out: values for the rows of a `Step`, on the same device.
Promise:  nothing here waits for the device, unless a gradient is sparse; three launches for the
          norm, seven for all statistics, and more for each further type of entry.
Start at `CudaGroup.gradients`. The tables of chunks stay on the device; the addresses in them are
copied again only when one of them changed. `distinct_rows` is not measured on devices.

Tests run this file on the CPU in Triton's interpreter. It was never run on hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from trainvitals.capture.backends.device_tables import OPTIONS, WIDTH, Table, addresses_of, kernels
from trainvitals.capture.backends.members import Member
from trainvitals.capture.backends.plain import PlainGroup, Unscale
from trainvitals.capture.device import Uploads, is_capturing, launches
from trainvitals.capture.guard import log
from trainvitals.capture.step import Step
from trainvitals.structure.parameters import DTYPES, local_of, reason_not_measured
from trainvitals.wire import STATISTICS, Stream
from trainvitals.wire.vocabulary import MAGNITUDES

ALIGNMENT: Final = 256
"""Of the copies of weights, in bytes."""
MOMENTS: Final = 8
"""Number of sums of a chunk, without those of its drift."""


@cache
def is_available(device: torch.device) -> bool:
    """Whether Triton is installed and can measure a norm on the device; tried once.

    Triton needs a C compiler, which containers often lack. Versions before 3.2 (torch 2.6) do not
    compile the kernels.
    """
    if device.type != "cuda":
        return False
    try:
        if kernels() is None:
            return False
        one = nn.Parameter(torch.ones(1, device=device))
        one.grad = torch.ones_like(one)
        CudaGroup([Member(one, 0)]).norm(Step(1), None)
    except Exception as error:  # noqa: BLE001 - a compiler, a driver or triton may raise anything
        log.warning(
            "Triton cannot build a kernel for %s (%s: %s). Parameters are measured by torch "
            "operations, which take more device time. Triton needs a C compiler and torch 2.6.",
            device,
            type(error).__name__,
            str(error).partition("\n")[0],
        )
        return False
    return True


class _Kept(NamedTuple):
    """The weights before a step."""

    table: Table
    memory: Tensor
    copies: list[int]
    squares: Tensor


class CudaGroup:
    """The parameters of one optimizer on one CUDA device."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = list(members)
        self._sizes = [m.tensor.numel() for m in members]
        self._plain = PlainGroup(members)
        """Reads the gradients when one is sparse, which waits for the device."""
        self._device = members[0].tensor.device
        self._index = members[0].tensor.get_device()
        self._uploads = Uploads(self._device)
        self._one = torch.ones((), dtype=torch.float64, device=self._device)
        self._tables: dict[bool, Table] = {}
        self._had: list[torch.dtype | None] = [None] * len(members)
        """The type of each gradient when it was last there."""
        self._gradients: Table | None = None
        self._order: list[int] = []
        self._kept: _Kept | None = None

    def norm(self, step: Step, owner: object, unscale: Unscale = 1.0) -> None:
        """Write the total of all gradients."""
        found = self._found()
        if found is None:
            self._plain.norm(step, owner, unscale)
            return
        table, _alive = self._gradient_table(found)
        if table is None:
            return
        with launches(self._device):
            data = table.addresses[0]
            partials, squares = table.partials(2), self._squares(table)
            table.read(kernels().squares, [data], partials)
            kernels().square_rows[(len(table),)](
                data, table.starts, partials, squares, table.chunks, WIDTH=WIDTH, **OPTIONS
            )
            step.put_total(owner, self._total(squares, self._factor(unscale)))

    def gradients(
        self,
        step: Step,
        owner: object,
        unscale: Unscale = 1.0,
        *,
        distinct: bool,
    ) -> None:
        """Write the statistics of each gradient and the total."""
        found = self._found()
        if found is None:
            self._plain.gradients(step, owner, unscale, distinct=distinct)
            return
        table, _alive = self._gradient_table(found)
        if table is None:
            return
        with launches(self._device):
            factor = self._factor(unscale)
            values, squares = self._moments(table, factor, extras=False)
            step.put(Stream.GRADIENT, table.rows, values)
            step.put_total(owner, self._total(squares, factor))

    def weights(
        self,
        step: Step,
        *,
        frozen: bool,
        keep: bool,
        distinct: bool,  # noqa: ARG002 - rows are compared on the CPU only
    ) -> None:
        """Write the statistics of each weight, and copy the trained ones if `keep`."""
        self._kept = None
        if is_capturing(self._device):
            return
        table = self._weight_table(frozen=frozen)
        if table is None:
            return
        data, _alive = addresses_of(self._here(table))
        first = [m.first_address for m in table.members]
        copies, memory = None, None
        with launches(self._device):
            if keep:
                wanted = [
                    m.is_trained and at != 0 for m, at in zip(table.members, data, strict=True)
                ]
                memory, copies = _reserve(table, wanted, self._device)
            table.set(data, first, copies)
            values, squares = self._moments(table, self._one, extras=True)
            step.put(Stream.WEIGHT, table.rows, values)
        if memory is not None and copies is not None:
            self._kept = _Kept(table, memory, copies, squares)

    def updates(self, step: Step) -> None:
        """Write the statistics of each change since `weights`."""
        kept, self._kept = self._kept, None
        if kept is None or is_capturing(self._device):
            return
        table = kept.table
        if not table.is_current():
            return  # a weight was replaced inside the step: not an update
        data, _alive = addresses_of(self._here(table))
        kept_at = [copy if at else 0 for copy, at in zip(kept.copies, data, strict=True)]
        with launches(self._device):
            table.set(data, [m.first_address for m in table.members], kept_at)
            copies, partials = table.addresses[2], table.partials(3)
            table.read(kernels().changes, [table.addresses[0], copies], partials)
            values = torch.empty((len(table), 4), dtype=torch.float32, device=self._device)
            kernels().change_rows[(len(table),)](
                copies,
                table.starts,
                table.counts,
                partials,
                kept.squares,
                values,
                table.chunks,
                WIDTH=WIDTH,
                **OPTIONS,
            )
            step.put(Stream.UPDATE, table.rows, values)

    def release(self) -> None:
        """Release the copies of weights."""
        self._kept = None

    def _here(self, table: Table) -> list[Tensor | None]:
        """Return the weights of a table that are still on the device."""
        weights = [m.tensor.detach() for m in table.members]
        return [w if w.get_device() == self._index else None for w in weights]

    def _moments(self, table: Table, factor: Tensor, *, extras: bool) -> tuple[Tensor, Tensor]:
        """Return the rows and the squares of the tensors of a table."""
        # The percentiles of magnitudes are measured in host memory only.
        measured = len(STATISTICS[Stream.WEIGHT]) - len(MAGNITUDES)
        columns = measured if extras else MOMENTS
        values = torch.empty((len(table), columns), dtype=torch.float32, device=self._device)
        partials, squares = table.partials(MOMENTS + 2 * extras), self._squares(table)
        data, first, copies = table.addresses.unbind()
        table.read(kernels().moments, [data, first, copies], partials, EXTRAS=extras)
        kernels().moment_rows[(len(table),)](
            data,
            first,
            table.starts,
            table.counts,
            partials,
            factor,
            values,
            squares,
            table.chunks,
            EXTRAS=extras,
            COLUMNS=columns,
            WIDTH=WIDTH,
            **OPTIONS,
        )
        return values, squares

    def _squares(self, table: Table) -> Tensor:
        return torch.empty((2, len(table)), dtype=torch.float64, device=self._device)

    def _total(self, squares: Tensor, factor: Tensor) -> Tensor:
        out = torch.empty(2, dtype=torch.float64, device=self._device)
        kernels().total[(1,)](squares, factor, out, squares.shape[1], WIDTH=WIDTH, **OPTIONS)
        return out

    def _factor(self, unscale: Unscale) -> Tensor:
        if isinstance(unscale, Tensor):
            if unscale.device.type != "cpu" or self._device.type == "cpu":
                return unscale.detach().to(self._device, torch.float64, non_blocking=True)
            unscale = float(unscale)  # on the CPU already: nothing to wait for
        if unscale == 1.0:
            return self._one
        return torch.full((), unscale, dtype=torch.float64, device=self._device)

    def _found(self) -> list[Tensor | None] | None:
        """Return the gradient of each parameter, None where none can be measured.

        Returns None if one is sparse, and nothing while a CUDA graph is recorded. A gradient
        elsewhere or of another size is left out: reading a wrong address would end the training.
        """
        found: list[Tensor | None] = []
        if is_capturing(self._device):
            return found
        for member, size in zip(self._members, self._sizes, strict=True):
            gradient = member.parameter.grad
            if gradient is not None:
                gradient = local_of(gradient)
                if gradient.layout is not torch.strided:
                    return None
                if (
                    gradient.numel() != size
                    or gradient.get_device() != self._index
                    or gradient.dtype not in DTYPES
                    or (type(gradient) is not Tensor and reason_not_measured(gradient))
                ):
                    gradient = None
            found.append(gradient)
        return found

    def _gradient_table(
        self, found: Sequence[Tensor | None]
    ) -> tuple[Table | None, Sequence[Tensor]]:
        """Return the table of the gradients, and copies that must live until it was read.

        The table has every parameter that ever had a gradient: it is not built again when some
        have none in a step, as in a mixture of experts.
        """
        if all(gradient is None for gradient in found):
            return None, ()
        changed = False
        for i, gradient in enumerate(found):
            if gradient is not None and gradient.dtype is not self._had[i]:
                self._had[i] = gradient.dtype
                changed = True
        if changed or self._gradients is None:
            had = [(m, d) for m, d in zip(self._members, self._had, strict=True) if d is not None]
            self._gradients = Table([m for m, _ in had], [d for _, d in had], self._uploads)
            place = {m.row: i for i, m in enumerate(self._members)}
            self._order = [place[row] for row in self._gradients.rows]
        addresses, alive = addresses_of([found[i] for i in self._order])
        self._gradients.set(addresses)
        return self._gradients, alive

    def _weight_table(self, *, frozen: bool) -> Table | None:
        members = [m for m in self._members if frozen or m.is_trained]
        if not members:
            return None
        table = self._tables.get(frozen)
        if table is None or not table.is_current():
            table = Table(members, [m.tensor.dtype for m in members], self._uploads)
            self._tables[frozen] = table
        return table


def _reserve(
    table: Table, wanted: Sequence[bool], device: torch.device
) -> tuple[Tensor, list[int]]:
    """Return memory for copies, and the address of each copy, 0 where none is wanted."""
    sizes = [
        -(-size // ALIGNMENT) * ALIGNMENT if want else 0
        for size, want in zip(table.bytes, wanted, strict=True)
    ]
    memory = torch.empty(sum(sizes) + ALIGNMENT, dtype=torch.uint8, device=device)
    at = -(-memory.data_ptr() // ALIGNMENT) * ALIGNMENT
    addresses = []
    for size, want in zip(sizes, wanted, strict=True):
        addresses.append(at if want else 0)
        at += size
    return memory, addresses
