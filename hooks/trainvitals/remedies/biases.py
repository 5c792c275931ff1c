"""Treat biases apart from weights: parameter groups, a penalty, recentring, an audit.

Start at `parameter_groups` for a new run and at `audit` for one whose biases drift (TV701).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from trainvitals.remedies.bias_audit import Audit, BiasRow, audit
from trainvitals.remedies.diversity import Subset
from trainvitals.remedies.recentring import Recentred, Recentring, recentre
from trainvitals.structure.parameters import EMBEDDINGS, Parameter, kind_of, parameters_of

__all__ = [
    "Audit",
    "BiasRow",
    "Recentred",
    "Recentring",
    "Subset",
    "audit",
    "bias_penalty",
    "parameter_groups",
    "recentre",
]


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    learning_rate: float | None = None,
    bias_learning_rate: float | None = None,
    bias_weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Return groups for an optimizer: weights; norm scales and embeddings; biases and norm shifts.

    Weight decay is applied to weights of two or more dimensions only; a one-dimensional weight is
    the scale of a norm that PyTorch does not have. Every parameter is in one group, tied and frozen
    ones too; a head that is tied to an embedding counts as the embedding. Each group has a `name`;
    groups without parameters are left out. Without a learning rate the optimizer's own is used.

    Raises ValueError for a negative or non-finite number, or for a model without parameters.
    """
    _check("weight_decay", weight_decay)
    _check("bias_weight_decay", bias_weight_decay)
    for name, rate in (
        ("learning_rate", learning_rate),
        ("bias_learning_rate", bias_learning_rate),
    ):
        if rate is not None:
            _check(name, rate)
    bias_rate = learning_rate if bias_learning_rate is None else bias_learning_rate
    groups = {
        "weights": _group("weights", weight_decay, learning_rate),
        "scales": _group("norm scales and embeddings", 0.0, learning_rate),
        "biases": _group("biases", bias_weight_decay, bias_rate),
    }
    modules = dict(model.named_modules())
    for parameter in parameters_of({"": model}).values():
        groups[_group_of(parameter, modules)]["params"].append(parameter.tensor)
    found = [group for group in groups.values() if group["params"]]
    if not found:
        raise ValueError("The model has no parameters.")
    return found


def bias_penalty(model: nn.Module, l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """Return l1 · Σ|b| + l2 · Σb² over the trainable biases of layers, to add to the loss.

    A float32 scalar through which gradients flow; 0 for a model without biases. The shifts of norms
    are not in it. Raises ValueError for a negative or non-finite factor.
    """
    _check("l1", l1)
    _check("l2", l2)
    total = torch.zeros(())
    for parameter in parameters_of({"": model}).values():
        bias = parameter.tensor
        if kind_of(parameter) == "bias" and bias.requires_grad and not nn.parameter.is_lazy(bias):
            entries = bias.float()
            term = l1 * entries.abs().sum() + l2 * entries.square().sum()
            total = total.to(term.device) + term
    return total


def _check(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; it must be finite and at least 0.")


def _group(name: str, decay: float, rate: float | None) -> dict[str, Any]:
    group: dict[str, Any] = {"params": [], "weight_decay": decay, "name": name}
    return group if rate is None else {**group, "lr": rate}


def _group_of(parameter: Parameter, modules: dict[str, nn.Module]) -> str:
    tied = (modules[alias.rpartition(".")[0]] for alias in parameter.aliases)
    if any(isinstance(module, EMBEDDINGS) for module in (parameter.owner, *tied)):
        return "scales"
    kind = kind_of(parameter)
    if kind in ("bias", "norm_shift"):
        return "biases"
    is_flat = not nn.parameter.is_lazy(parameter.tensor) and parameter.tensor.dim() < 2
    return "scales" if is_flat or kind != "weight" else "weights"
