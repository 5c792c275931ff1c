"""The matrices of a full step: statistics of weights, gradients and updates, one parameter per row.

Comes in: the models' parameters, before and after an optimizer step. Goes out: `blocks`, which
transfer.py copies to the host, and from these the matrices of the three streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainvitals.capture import kernel, tensors
from trainvitals.capture.optimizers import gradient_scale, unscaling
from trainvitals.capture.order import ModuleFacts
from trainvitals.capture.parameters import (
    Parameter,
    optimized_ids,
    parameters_of,
    place_of,
    reason_not_measured,
)
from trainvitals.capture.transfer import Array, Block
from trainvitals.wire import STATISTICS, Place, Stat, Stream

DISTINCT_ROWS_STEPS: Final = 4
Arrays = dict[str, Array]


class Matrices:
    """Measures the parameters in the current step.

    `parameters` are the rows; `blocks` contains the statistics of this step; `full_steps` is the
    number of full steps before this one.
    """

    def __init__(self, models: Mapping[str, nn.Module], report: Callable[[str, str], None]) -> None:
        self.parameters: list[Parameter] = []
        self.blocks: dict[str, Block] = {}
        self.full_steps = 0
        self._models = models
        self._report = report
        self._reported: set[str] = set()
        self._first: dict[int, Tensor] = {}
        self._copies: dict[int, list[Tensor]] = {}
        self._copied: set[int] = set()

    def places(
        self,
        facts_of: Callable[[nn.Module | None], ModuleFacts | None],
        optimized: Set[int] | None,
    ) -> list[Place]:
        """Return the rows of the parameters; `optimized`: ids of tensors, None if unknown."""
        return [
            place_of(
                p,
                facts_of(p.owner),
                optimized=optimized is None or id(p.tensor) in optimized,
            )
            for p in self.parameters
        ]

    def find_parameters(self) -> None:
        """Search the models for new, removed or frozen parameters."""
        found = parameters_of(self._models)
        reasons = {p.name: reason_not_measured(p.tensor) for p in found.values()}
        for name, reason in reasons.items():
            if reason and name not in self._reported:
                self._reported.add(name)
                self._report(name, reason)
        self.parameters = [p for p in found.values() if reasons[p.name] is None]

    def begin(self) -> None:
        """Start a step: clear the statistics of the last one."""
        self.blocks = {}
        self._copied.clear()

    def forget(self) -> None:
        """Release every copy of a weight."""
        self._copies, self._first = {}, {}

    def owned_by(self, optimizer: Optimizer, optimizers: Sequence[Optimizer]) -> list[int]:
        """Return the rows that this optimizer updates; the first one also gets unowned rows."""
        if len(optimizers) == 1:
            return list(range(len(self.parameters)))
        mine = optimized_ids([optimizer])
        others = optimized_ids(o for o in optimizers if o is not optimizer)
        first = optimizer is optimizers[0]
        return [
            i
            for i, p in enumerate(self.parameters)
            if id(p.tensor) in mine or (first and id(p.tensor) not in others)
        ]

    def take_norm(self, optimizer: Optimizer, mine: list[int]) -> bool:
        """Measure the gradients' squares; return whether one is known to be non-finite."""
        present = [g for i in mine if (g := self._gradient(i)) is not None]
        if not present:
            return False  # without gradients the norm is unknown, not zero
        squares = kernel.squares(present)
        scale = gradient_scale(optimizer)
        if scale is not None:
            squares = squares / float(scale) ** 2
        self.blocks[f"squares/{id(optimizer)}"] = squares
        return isinstance(squares, np.ndarray) and not np.isfinite(squares).all()

    def take_weights(self, owner: object, mine: list[int]) -> None:
        """Measure the weights of the rows `mine` before the step, and keep copies of them."""
        frozen = {i for i in mine if not self.parameters[i].tensor.requires_grad}
        # A frozen weight does not change: measure it once.
        positions = [i for i in mine if i not in frozen or self.full_steps == 0]
        weights = [self._tensor(i) for i in positions]
        self._put(f"{Stream.WEIGHT}/{id(owner)}", positions, kernel.statistics(weights))
        moving = [i for i in mine if i not in frozen]
        if isinstance(owner, Optimizer):
            self._copies[id(owner)] = tensors.copies_of(
                [self.parameters[i].tensor for i in moving], self._copies.get(id(owner))
            )
            self._copied.add(id(owner))
        self._take_drift(moving, str(id(owner)))
        if self.full_steps < DISTINCT_ROWS_STEPS:
            self._take_distinct(Stream.WEIGHT, mine, tensors_of=self._tensor)

    def take_gradients(self, optimizer: Optimizer, mine: list[int]) -> None:
        """Measure the gradients of the rows `mine`, unscaled."""
        present = [(i, g) for i in mine if (g := self._gradient(i)) is not None]
        values = kernel.statistics([g for _, g in present])
        scale = gradient_scale(optimizer)
        if scale is not None:
            values = values * unscaling(scale)
        self._put(f"{Stream.GRADIENT}/{id(optimizer)}", [i for i, _ in present], values)
        if self.full_steps < DISTINCT_ROWS_STEPS:
            self._take_distinct(Stream.GRADIENT, mine, tensors_of=self._gradient)

    def take_updates(self, optimizer: Optimizer, mine: list[int]) -> None:
        """Measure the update of the weights that were copied before this step."""
        if id(optimizer) not in self._copied:
            return
        moving = [i for i in mine if self.parameters[i].tensor.requires_grad]
        before, after = self._copies[id(optimizer)], [self._tensor(i) for i in moving]
        if len(before) != len(after):
            return  # a parameter was frozen or added inside the step; skip this step
        moved = kernel.differences(before, after)
        had = kernel.squares(before)
        counts = np.array([max(1, t.numel()) for t in after], np.float64)
        if isinstance(had, Tensor) or isinstance(moved, Tensor):
            had, moved = torch.as_tensor(had), torch.as_tensor(moved)
            rms = (had / torch.as_tensor(counts, device=had.device)).sqrt()
            ratio = torch.where(rms > 0, moved[:, 0] / rms, float("nan"))
            values: Block = torch.stack([moved[:, 0], ratio.float(), moved[:, 1]], dim=1)
        else:
            rms_here = np.sqrt(had / counts)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio_here = np.where(rms_here > 0, moved[:, 0] / rms_here, np.nan)
            values = np.stack([moved[:, 0], ratio_here, moved[:, 1]], axis=1)
        self._put(f"{Stream.UPDATE}/{id(optimizer)}", moving, values)

    def matrix(self, stream: Stream, arrays: Arrays) -> npt.NDArray[np.float32]:
        """Return a stream's matrix from the arrays of a step; NaN for missing values."""
        matrix = np.full((len(self.parameters), len(STATISTICS[stream])), np.nan, np.float32)
        for key, values in arrays.items():
            if not key.startswith(f"{stream}/"):
                continue
            column, at = arrays[f"rows/{key}"], int(arrays[f"column/{key}"][0])
            if len(values):
                matrix[column.astype(np.int64), at : at + values.shape[1]] = values
        return matrix

    def _put(self, key: str, positions: Sequence[int], values: Block, column: int = 0) -> None:
        self.blocks[key] = values
        self.blocks[f"rows/{key}"] = np.array(positions, np.float64)
        self.blocks[f"column/{key}"] = np.array([column])

    def _take_drift(self, moving: list[int], key: str) -> None:
        flat = [i for i in moving if self.parameters[i].tensor.dim() == 1]
        if not flat:
            return
        for i in flat:
            tensor = self._tensor(i)
            known = self._first.get(id(self.parameters[i].tensor))
            if known is None or known.shape != tensor.shape:
                self._first[id(self.parameters[i].tensor)] = tensor.clone()
        first = [self._first[id(self.parameters[i].tensor)] for i in flat]
        column = STATISTICS[Stream.WEIGHT].index(Stat.DRIFT_RMS)
        drift = kernel.differences(first, [self._tensor(i) for i in flat])
        self._put(f"{Stream.WEIGHT}/drift/{key}", flat, drift, column)

    def _take_distinct(
        self, stream: Stream, mine: list[int], tensors_of: Callable[[int], Tensor | None]
    ) -> None:
        column = STATISTICS[stream].index(Stat.DISTINCT_ROWS)
        found = {
            i: tensors.distinct_rows(t)
            for i in mine
            if (t := tensors_of(i)) is not None
            and t.device.type == "cpu"  # reading another device would block
            and t.dim() >= 2
            and t.shape[0] >= 2
            and t.numel()
        }
        values = np.array(list(found.values())).reshape(-1, 1)
        self._put(f"{stream}/distinct/{min(mine, default=0)}", list(found), values, column)

    def _tensor(self, i: int) -> Tensor:
        return self.parameters[i].tensor.detach()

    def _gradient(self, i: int) -> Tensor | None:
        gradient = self.parameters[i].tensor.grad
        if gradient is None:
            return None
        # This runs for every tensor at every step: skip the checks for an ordinary tensor.
        ordinary = type(gradient) is Tensor and gradient.layout is torch.strided
        if not (ordinary and gradient.dtype in kernel.DTYPES) and reason_not_measured(gradient):
            return None
        return gradient.detach() if gradient.requires_grad else gradient
