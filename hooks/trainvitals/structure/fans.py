"""How many inputs a unit of a layer sums, and into how many sums an input enters."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from trainvitals.structure.parameters import RECURRENT

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Fans(NamedTuple):
    """Of one weight. Blocks are stacked in its first dimension (the gates of an LSTM)."""

    fan_in: float
    fan_out: float
    blocks: int = 1


def fans_of(module: nn.Module, name: str, weight: Tensor) -> Fans | None:
    """Return the fans of the weight `name` of `module`; None for a parameter without a rule.

    Groups divide both fans. The stride of a transposed convolution divides them by the share of
    positions that meet, so that fan_in is the mean number of terms in an output. This differs from
    `torch.nn.init`, which sees the shape only.
    """
    if isinstance(module, RECURRENT) and name.startswith("weight"):
        rows = weight.shape[0] // (1 if name.startswith("weight_hr") else gates_of(module))
        return Fans(weight.shape[1], rows, weight.shape[0] // rows)
    if isinstance(module, nn.MultiheadAttention) and name.endswith("proj_weight"):
        blocks = 3 if name == "in_proj_weight" else 1
        return Fans(weight.shape[1], weight.shape[0] // blocks, blocks)
    if name != "weight":
        return None
    if isinstance(module, nn.Linear):
        return Fans(weight.shape[1], weight.shape[0])
    if is_transposed_linear(module, weight):
        return Fans(weight.shape[0], weight.shape[1])
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        convolution: Any = module
        kernel = math.prod(convolution.kernel_size)
        inputs = convolution.in_channels // convolution.groups
        outputs = convolution.out_channels // convolution.groups
        if isinstance(module, CONVOLUTIONS):
            return Fans(inputs * kernel, outputs * kernel)
        return Fans(inputs * kernel / math.prod(convolution.stride), outputs * kernel)
    return None


def gates_of(module: nn.Module) -> int:
    """Return the number of blocks in a recurrent weight: 4 for LSTM, 3 for GRU, 1 for RNN."""
    kind = type(module).__name__
    mode = str(getattr(module, "mode", ""))
    if "LSTM" in kind or mode == "LSTM":
        return 4
    return 3 if "GRU" in kind or mode == "GRU" else 1


def is_transposed_linear(module: nn.Module, weight: Tensor) -> bool:
    """Whether `module` is the `Conv1D` of Hugging Face: a linear layer with weight (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and weight.dim() == 2
