"""The statistics of the native kernels in torch operations, for parameters on any device.

Comes in: tensors on one device. Goes out: values for the rows of a `Step`, on the same device.
Promise:  nothing here waits for a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainvitals.capture.backends.members import (
    ENTRIES_COMPARED_MAX,
    ROWS_COMPARED_MAX,
    Member,
    has_rows,
    spread,
)
from trainvitals.capture.step import Step
from trainvitals.wire import STATISTICS, Stat, Stream
from trainvitals.wire.vocabulary import MAGNITUDES


class PlainGroup:
    """The parameters of one optimizer on one device."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = list(members)
        self._copies: list[Tensor] | None = None

    def norm(self, step: Step, owner: object, unscale: Unscale = 1.0) -> None:
        """Write the total of all gradients."""
        found = [g for m in self._members if (g := m.gradient) is not None]
        if found:
            step.put_total(owner, _total(torch.stack([_squares(g) for g in found]), unscale))

    def gradients(
        self, step: Step, owner: object, unscale: Unscale = 1.0, *, distinct: bool
    ) -> None:
        """Write the statistics of each gradient and the total."""
        found, rows, whole = [], [], []
        for m in self._members:
            if (g := m.gradient) is None:
                continue
            found.append((m.row, g))
            if m.is_part(g):
                rows.append(spread(statistics(g), g, m.tensor.numel()))
            else:
                rows.append(statistics(g))
                whole.append((m.row, g))
        if not found:
            return
        values = torch.stack(rows)
        values[:, :6] *= unscale  # the others count entries
        values[:, 6:] *= unscale * 0 + 1  # NaN if the step is skipped
        step.put(Stream.GRADIENT, [row for row, _ in found], values)
        step.put_total(owner, _total(torch.stack([_squares(g) for _, g in found]), unscale))
        _put_magnitudes(step, Stream.GRADIENT, found, unscale)
        if distinct:
            _put_distinct_rows(step, Stream.GRADIENT, whole)

    def weights(self, step: Step, *, frozen: bool, keep: bool, distinct: bool) -> None:
        """Write the statistics of each weight, and copy the trained ones if `keep`."""
        members = self._members if frozen else self._moving
        found = [(m.row, m.tensor.detach()) for m in members]
        if not found:
            return
        step.put(
            Stream.WEIGHT, [row for row, _ in found], torch.stack([statistics(w) for _, w in found])
        )
        _put_magnitudes(step, Stream.WEIGHT, found)
        if drifts := [(m.row, _change(m.first, m.tensor.detach())) for m in members if m.has_first]:
            column = STATISTICS[Stream.WEIGHT].index(Stat.DRIFT_RMS)
            values = torch.stack([change[:2] for _, change in drifts])
            step.put(Stream.WEIGHT, [row for row, _ in drifts], values, column)
        if distinct:
            _put_distinct_rows(step, Stream.WEIGHT, found)
        if keep:
            self._copies = [m.tensor.detach().clone() for m in self._moving]

    def updates(self, step: Step) -> None:
        """Write the statistics of each change since `weights`."""
        before, self._copies = self._copies, None
        moving = self._moving
        if not before or len(before) != len(moving):
            return
        rows = []
        for old, member in zip(before, moving, strict=True):
            rms, mean, same = _change(old, member.tensor.detach())
            had = old.to(_wide(old)).square().mean().sqrt()
            ratio = torch.where(had > 0, rms / had, torch.nan)
            rows.append(torch.stack([rms, ratio, mean, same]).float())
        step.put(Stream.UPDATE, [m.row for m in moving], torch.stack(rows))

    def release(self) -> None:
        """Release the copies of weights."""
        self._copies = None

    @property
    def _moving(self) -> list[Member]:
        return [m for m in self._members if m.is_trained]


Unscale = float | Tensor
"""Factor on gradients that are still scaled; a tensor on their device."""


def statistics(tensor: Tensor) -> Tensor:
    """Return mean, std, min, max, abs_mean, l2, zero_share and nonfinite, float32, shape (8,).

    Moments are over finite entries; NaN without any.
    """
    x = tensor.reshape(-1).to(_wide(tensor))
    if x.numel() == 0:
        row = torch.full((8,), float("nan"), device=x.device)
        row[7] = 0
        return row
    finite = torch.isfinite(x)
    count = finite.sum()
    kept = torch.where(finite, x, 0)
    mean = kept.sum() / count
    deviation = torch.where(finite, x - mean, 0)
    row = torch.stack(
        [
            mean,
            (deviation.square().sum() / count).sqrt(),
            torch.where(finite, x, torch.inf).min(),
            torch.where(finite, x, -torch.inf).max(),
            kept.abs().sum() / count,
            torch.linalg.vector_norm(kept),
        ]
    )
    row = torch.where(count > 0, row, torch.nan)
    rest = torch.stack([(x == 0).to(x.dtype).mean(), (~finite).sum().to(x.dtype)])
    return torch.cat([row, rest]).float()


SAMPLED_BLOCKS: Final = 4
_BLOCK, _SHIFT = 2048, 19


def magnitudes(tensor: Tensor) -> npt.NDArray[np.float32]:
    """Return the percentiles `MAGNITUDES` of |x| of a tensor in host memory, as magnitudes.h."""
    x = tensor.detach().reshape(-1)
    step = max(1, -(-x.numel() // _BLOCK // SAMPLED_BLOCKS)) * _BLOCK
    blocks = [x[at : at + _BLOCK] for at in range(0, x.numel(), step)]
    out = np.full(len(MAGNITUDES), np.nan, np.float32)
    bits = (torch.cat(blocks) if blocks else x).float().numpy().view(np.uint32) & 0x7FFFFFFF
    bits = bits[(bits != 0) & (bits < 0x7F800000)]
    if len(bits):
        bins = np.bincount(bits >> _SHIFT)
        ends = np.cumsum(bins)
        ranks = np.array([0.05, 0.5, 0.95]) * ends[-1]
        at = np.searchsorted(ends, ranks)
        low, high = ((at + i << _SHIFT).astype(np.uint32).view(np.float32) for i in (0, 1))
        out[:] = low + (ranks - (ends[at] - bins[at])) / bins[at] * (high.astype(float) - low)
    return out


def distinct_rows(tensor: Tensor) -> float:
    """Return the number of distinct rows over the number of rows, as native.distinct_rows."""
    x = tensor.detach().flatten(1)
    x = x[:: -(-x.shape[0] // ROWS_COMPARED_MAX), :: -(-x.shape[1] // ENTRIES_COMPARED_MAX)]
    values = x.double().numpy()
    scale = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(scale):
        return float("nan")
    if scale > 0:
        values = np.round(values / scale * 1e5)
    # + 0.0 makes −0 and 0 the same bytes.
    return len({row.tobytes() for row in values + 0.0}) / len(values)


def _put_magnitudes(
    step: Step, stream: Stream, found: list[tuple[int, Tensor]], unscale: Unscale = 1.0
) -> None:
    column = STATISTICS[stream].index(MAGNITUDES[0])
    for row, tensor in found:
        if tensor.device.type == "cpu":  # reading another device would wait
            values = magnitudes(tensor) * float(unscale)
            step.matrix(stream)[row, column : column + len(MAGNITUDES)] = values


def _put_distinct_rows(step: Step, stream: Stream, found: list[tuple[int, Tensor]]) -> None:
    column = STATISTICS[stream].index(Stat.DISTINCT_ROWS)
    for row, tensor in found:
        if has_rows(tensor) and tensor.device.type == "cpu":  # reading another device would wait
            step.matrix(stream)[row, column] = distinct_rows(tensor)


def _change(old: Tensor | None, new: Tensor) -> Tensor:
    """Return RMS and mean of new − old, and the share of equal entries, shape (3,)."""
    if old is None or new.numel() == 0:
        return torch.full((3,), float("nan"), device=new.device)
    difference = new.to(_wide(new)) - old.to(_wide(old))
    same = (new == old).to(difference.dtype).mean()
    return torch.stack([difference.square().mean().sqrt(), difference.mean(), same]).float()


def _squares(gradient: Tensor) -> Tensor:
    return gradient.to(_wide(gradient)).square().sum()


def _total(squares: Tensor, unscale: Unscale) -> Tensor:
    nonfinite = (~torch.isfinite(squares)).sum()
    total = torch.where(nonfinite > 0, torch.nan, squares.sum()) * unscale * unscale
    return torch.stack([total, nonfinite * (unscale * 0 + 1)])


def _wide(tensor: Tensor) -> torch.dtype:
    # Metal has no float64.
    return torch.float32 if tensor.device.type == "mps" else torch.float64
