"""Which initialiser a weight or a bias has."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from trainvitals.api.schema import Initialiser
from trainvitals.diagnosis.initialisers import identify_entries
from trainvitals.structure.parameters import reason_not_measured

ENTRIES_MAX: Final = 1 << 20
"""Of larger tensors, that many entries are read, at equal distances."""
ROWS_MAX: Final = 256
"""Number of rows (or columns) that are tested for orthogonality."""


def identify(
    tensor: Tensor, *, fan_in: float | None = None, fan_out: float | None = None
) -> Initialiser:
    """Return the initialiser that `tensor`, a weight or a bias, most likely has.

    Without `fan_in` and `fan_out` the fans are those of `torch.nn.init` for a weight of this shape,
    (out, in, *kernel); a bias has none. Give both for a transposed or grouped convolution that was
    initialised with other fans, and `fan_in` for a bias of PyTorch's default, U(±1/√fan_in).
    `nn.init.kaiming_uniform_(w, a=√5)` is `torch_default`. GPT-2's N(0, 0.02) is `normal` with std
    0.02. A weight after training is often `unknown`.

    Raises TypeError if it is not a tensor of real floating-point numbers, ValueError if it is
    empty, has no data (lazy, meta) or is not finite, or if a fan is not positive.
    """
    _check(tensor)
    for name, fan in (("fan_in", fan_in), ("fan_out", fan_out)):
        if fan is not None and not fan > 0:
            raise ValueError(f"{name} is {fan}; it must be greater than 0.")
    tensor = tensor.detach()
    if tensor.dim() >= 2:
        torch_in, torch_out = nn.init._calculate_fan_in_and_fan_out(tensor)
        fan_in = torch_in if fan_in is None else fan_in
        fan_out = torch_out if fan_out is None else fan_out
    entries = _sample(tensor.flatten())
    if not np.isfinite(entries).all():
        raise ValueError("The tensor contains NaN or infinite values: it has no initialiser.")
    return identify_entries(entries, fan_in, fan_out, _orthogonal_gain(tensor))


def _check(tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"identify() takes a tensor, not a {type(tensor).__name__}.")
    if reason := reason_not_measured(tensor):
        wrong_type = tensor.is_quantized or not tensor.is_floating_point()
        raise (TypeError if wrong_type else ValueError)(
            f"The initialiser of this tensor cannot be identified: {reason}."
        )
    if tensor.numel() == 0:
        raise ValueError("The tensor is empty: it has no initialiser.")


def _sample(flat: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    step = -(-flat.numel() // ENTRIES_MAX)
    return flat[::step].to("cpu", torch.float64).numpy()


def _orthogonal_gain(tensor: Tensor) -> float | None:
    """Return the norm of the rows (columns of a tall matrix) if these are orthogonal."""
    if tensor.dim() < 2:
        return None
    matrix = tensor.flatten(1)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    if matrix.shape[0] < 2:
        return None
    rows = matrix[:ROWS_MAX].to(torch.float32)
    gram = rows @ rows.T
    square = float(gram.diagonal().mean())
    # float16 and bfloat16 round each of the entries of a row: their errors partly cancel.
    tolerance = max(1e-3, 4 * torch.finfo(tensor.dtype).eps)
    error = gram / square - torch.eye(len(rows), device=gram.device) if square > 0 else None
    if error is None or float(error.abs().max()) > tolerance:
        return None
    return math.sqrt(square)
