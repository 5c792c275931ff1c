"""The bias of a model's head from the targets: the mean output is correct at the first step.

Sources: Karpathy, "A Recipe for Training Neural Networks", 2019; Lin et al. 2017, arXiv:1708.02002
(prior of a focal loss's bias).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Values = Tensor | Sequence[float] | float


def head_bias(outputs: int, targets: Tensor | None, class_prior: Values | None) -> Tensor:
    """Return the bias of a head with `outputs` units, shape (outputs,), float64.

    `class_prior`: the shares of the classes (log prior; one output: the share of class 1, as log
    odds). `targets`: class indices (n,), which give the prior, each class counted once more; zeros
    and ones, which give log odds; other numbers (n,) or (n, outputs), which give their mean.
    Raises ValueError if they do not fit the head.
    """
    if class_prior is not None and targets is not None:
        raise ValueError("Give targets or class_prior, not both.")
    if class_prior is not None:
        return _from_prior(outputs, torch.as_tensor(class_prior, dtype=torch.float64).flatten())
    if not isinstance(targets, Tensor) or targets.numel() == 0 or targets.is_complex():
        raise ValueError("targets must be a tensor of real numbers with at least one entry.")
    values = targets.detach().cpu()
    if values.dim() > 1 and values.shape[-1] == 1:
        values = values.squeeze(-1)
    if not torch.isfinite(values.double()).all():
        raise ValueError("targets contain NaN or infinite values.")
    if values.dim() == 1 and outputs > 1:
        return _from_classes(outputs, values)
    columns = values.reshape(len(values), -1).double()
    if columns.shape[1] != outputs:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} do not fit a head with {outputs} outputs; "
            f"expected class indices (n,) or numbers (n, {outputs})."
        )
    if bool(((columns == 0) | (columns == 1)).all()):
        share = (columns.sum(0) + 1) / (len(columns) + 2)
        return torch.logit(share)
    return columns.mean(0)


def _from_prior(outputs: int, prior: Tensor) -> Tensor:
    if not bool(((prior > 0) & (prior < 1)).all()):
        raise ValueError("Each entry of class_prior must lie between 0 and 1, both excluded.")
    if outputs == 1 and prior.numel() == 1:
        return torch.logit(prior)
    if prior.numel() != outputs:
        raise ValueError(
            f"class_prior has {prior.numel()} entries and the head {outputs} outputs; "
            "expected one entry for each output."
        )
    if abs(float(prior.sum()) - 1) > 1e-3:
        raise ValueError(f"class_prior sums to {float(prior.sum()):.4g}; it must sum to 1.")
    return prior.log()


def _from_classes(outputs: int, values: Tensor) -> Tensor:
    whole = values.long()
    if not torch.equal(whole.double(), values.double()):
        raise ValueError(
            f"The head has {outputs} outputs and targets of shape ({len(values)},) are not whole "
            f"numbers; expected class indices or numbers of shape (n, {outputs})."
        )
    if int(whole.min()) < 0 or int(whole.max()) >= outputs:
        raise ValueError(
            f"Class indices are {int(whole.min())} to {int(whole.max())}; the head has {outputs} "
            f"outputs, so they must be 0 to {outputs - 1}."
        )
    counts = torch.bincount(whole, minlength=outputs).double() + 1
    return (counts / counts.sum()).log()
