"""Functions on tensors for matrices.py: the share of distinct rows, copies of weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ROWS_COMPARED_MAX = 256
COLUMNS_COMPARED_MAX = 1024


def distinct_rows(tensor: Tensor) -> float:
    """Return the number of distinct rows over the number of rows, 1/rows to 1.

    Rows are compared with a tolerance of about 1e-5 of the tensor's largest entry, because equal
    units have equal gradients only up to rounding. Of large tensors, up to 256 rows and 1,024
    columns are compared, evenly spaced.
    """
    x = tensor.detach().flatten(1)
    x = x[:: -(-x.shape[0] // ROWS_COMPARED_MAX), :: -(-x.shape[1] // COLUMNS_COMPARED_MAX)]
    values = x.float().cpu().numpy()
    scale = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(scale):
        return float("nan")
    if scale > 0:
        values = np.round(values / scale * 1e5)
    # + 0.0 makes −0 and 0 the same bytes.
    return len({row.tobytes() for row in values + 0.0}) / len(values)


def copies_of(tensors: Sequence[Tensor], into: list[Tensor] | None) -> list[Tensor]:
    """Return copies of `tensors`, in the memory of `into` if it fits."""
    fits = (
        into is not None
        and len(into) == len(tensors)
        and all(
            a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
            for a, b in zip(into, tensors, strict=True)
        )
    )
    if not fits or into is None:
        return [t.detach().clone(memory_format=torch.preserve_format) for t in tensors]
    if into:  # torch raises for an empty list
        torch._foreach_copy_(into, [t.detach() for t in tensors])
    return into
