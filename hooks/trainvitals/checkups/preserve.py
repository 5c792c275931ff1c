"""Keep the state of a model and of the random number generators over some passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainvitals.random_states import other_states, restore, torch_states


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore parameters, buffers, gradients, modes and random number generators at the end.

    Gradients are set to None inside the block. Values are restored in place, bit for bit; a buffer
    that was replaced by another tensor is put back. Generators: Python, NumPy, torch on the CPU and
    on every CUDA device. Attributes of modules that are no tensors are not restored.
    """
    tensors = [*model.parameters(), *model.buffers()]
    values = [t.detach().clone() for t in tensors]
    buffers = [(m, dict(m._buffers)) for m in model.modules()]
    gradients = [(p, p.grad) for p in model.parameters()]
    modes = [(m, m.training) for m in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with random_states_preserved():
            yield
    finally:
        with torch.no_grad():
            for module, before in buffers:
                module._buffers.update(before)
            for tensor, value in zip(tensors, values, strict=True):
                _restore(tensor, value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


@contextmanager
def random_states_preserved() -> Iterator[None]:
    """Restore the generators of Python, NumPy and torch (CPU and every CUDA device) at the end."""
    states = torch_states(), other_states()
    try:
        yield
    finally:
        restore(*states)


def _restore(tensor: Tensor, value: Tensor) -> None:
    if tensor.shape != value.shape or not _same(tensor, value):
        tensor.data = value


def _same(tensor: Tensor, value: Tensor) -> bool:
    # NaN is not equal to itself; comparing bytes also distinguishes −0 from 0.
    if tensor.dtype != value.dtype or tensor.device != value.device:
        return False
    a, b = tensor.detach().contiguous(), value.contiguous()
    if a.numel() == 0:
        return True
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
