"""Run a model without side effects: eval mode, no gradients, random state restored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode without gradients; restore modes and random state at the end."""
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad(), torch.random.fork_rng(devices=cuda_devices(model)):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def cuda_devices(model: nn.Module) -> list[int]:
    """Return the CUDA devices of the parameters, whose generators a forward pass may use."""
    found = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    return sorted(index for index in found if index is not None)


def call(model: nn.Module, inputs: Any) -> Any:
    """Return the output for inputs: a tensor, or a dict of keyword arguments."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def tensors_of(output: Any) -> list[Tensor]:
    """Return the floating-point tensors in an output: nested tuples, lists and dicts."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in tensors_of(part)]
    return []
