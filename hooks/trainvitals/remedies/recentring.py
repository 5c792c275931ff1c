"""Remove the common offset of a drifted bias where this does not change the model's function.

| what follows directly | what is subtracted | where it goes |
|---|---|---|
| batch or instance norm | the whole bias | the running mean |
| layer norm | its mean over units | nowhere: the norm subtracts the mean anyway |
| group norm | its mean over each group | nowhere, as above |
| linear layer with a bias | the whole bias | the next bias, W·b |
| softmax over the units | its mean over units | nowhere: softmax ignores an offset |

Anything else (a nonlinearity, an RMS norm, the end of the model) would change the function; such a
bias is left, with the reason, unless `keep_function=False`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainvitals.remedies.running import call, evaluation, tensors_of
from trainvitals.remedies.surroundings import followers_of
from trainvitals.remedies.table import number, text_table
from trainvitals.structure.fans import CONVOLUTIONS, TRANSPOSED
from trainvitals.structure.parameters import parameters_of, reason_not_measured

_LAYERS: Final = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
_BATCH_NORMS: Final = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


@dataclass(frozen=True)
class Recentred:
    """What was done to one bias."""

    parameter: str
    offset: float
    """Mean over units of what was subtracted; 0 if nothing was."""
    rms_before: float
    rms_after: float
    into: str
    """Destination of the offset: running_mean | next bias | nothing; "" if the bias is
    unchanged."""
    reason: str


@dataclass(frozen=True)
class Recentring(Sequence[Recentred]):
    """One row for each bias; prints as a table."""

    rows: tuple[Recentred, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return text_table(
            ("bias", "offset", "rms before", "rms after", "into", "reason"),
            [
                (
                    row.parameter,
                    number(row.offset),
                    number(row.rms_before),
                    number(row.rms_after),
                    row.into,
                    row.reason,
                )
                for row in self.rows
            ],
        )


@dataclass(frozen=True)
class _Move:
    offset: Tensor | None
    into: str
    reason: str
    carrier: Tensor | None = None
    """The tensor to which the offset is added."""
    carried: Tensor | None = None
    """What is added to it."""


def recentre(
    model: nn.Module,
    names: Iterable[str] | None = None,
    *,
    batch: Any = None,
    keep_function: bool = True,
) -> Recentring:
    """Subtract the common offset of biases in place; return a row for each.

    `names`: of the layers (not of the parameters); None: all linear and convolutional layers with a
    bias. With `keep_function=False` the mean over units is also subtracted where this changes the
    function of the model. The state of an optimizer (moments) is not changed. If an offset goes
    into a batch norm's running mean, the function is the same in training and in evaluation.

    `batch`: inputs of the model, a tensor or a dict of keyword arguments. Its outputs in eval mode
    are then compared before and after; if they differ by more than rounding, everything is restored
    and RuntimeError is raised.

    Raises ValueError for a name that is no such layer, before anything is changed.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS) and isinstance(module.bias, nn.Parameter)
    }
    chosen = list(layers) if names is None else list(names)
    if isinstance(names, str):
        raise TypeError(f"names is a string; pass a list: [{names!r}].")
    for name in chosen:
        if name not in layers:
            raise ValueError(
                f"{name!r} is no linear or convolutional layer with a bias; there are "
                f"{', '.join(layers) or 'none'}."
            )
    if batch is not None and not keep_function:
        raise ValueError(
            "batch= checks that the function is unchanged; keep_function=False changes it."
        )
    outputs = _outputs(model, batch)
    before = {key: value.clone() for key, value in model.state_dict().items()} if outputs else {}
    followers = followers_of(model)
    tied = {id(p.tensor) for p in parameters_of({"": model}).values() if p.aliases}
    rows = []
    with torch.no_grad():
        for name in chosen:
            layer: Any = layers[name]
            move = _move(layer, followers.get(name), tied, keep_function=keep_function)
            rows.append(_apply(f"{name}.bias" if name else "bias", layer, move))
    difference, limit = _difference(outputs, _outputs(model, batch))
    if difference > limit:
        model.load_state_dict(before)
        raise RuntimeError(
            f"The outputs for the batch change by {difference:.3g} of their scale, more than "
            f"rounding ({limit:.3g}); the biases are as before. Name the layers one by one."
        )
    return Recentring(tuple(rows))


def _outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    if batch is None:
        return []
    with evaluation(model):
        return [tensor.clone() for tensor in tensors_of(call(model, batch))]


def _difference(before: list[Tensor], after: list[Tensor]) -> tuple[float, float]:
    """Return the largest difference as a share of the outputs' scale, and what rounding may do."""
    worst, limit = 0.0, 0.0
    for old, new in zip(before, after, strict=True):
        scale = float(old.abs().max()) if old.numel() else 0.0
        change = float((new - old).abs().max()) if old.numel() else 0.0
        worst = max(worst, change / scale if scale else change)
        limit = max(limit, min(32 * torch.finfo(old.dtype).eps ** 0.5, 0.25))
    return worst, limit


def _move(layer: Any, follower: Any, tied: set[int], *, keep_function: bool) -> _Move:
    bias: Tensor = layer.bias
    if reason := reason_not_measured(bias):
        return _Move(None, "", reason)
    if not bias.requires_grad or id(bias) in tied:
        return _Move(None, "", "frozen" if not bias.requires_grad else "tied")
    if isinstance(follower, _BATCH_NORMS) and follower.num_features == bias.numel():
        mean = follower.running_mean
        carried = -bias if mean is not None else None
        into = "running_mean" if mean is not None else "nothing"
        return _Move(bias.clone(), into, "the norm subtracts the mean", mean, carried)
    if isinstance(follower, nn.LayerNorm):
        return _Move(bias.mean().expand_as(bias), "nothing", "the norm subtracts the mean")
    if isinstance(follower, nn.GroupNorm) and follower.num_channels == bias.numel():
        groups = bias.view(follower.num_groups, -1)
        offset = groups.mean(1, keepdim=True).expand_as(groups).reshape(-1)
        return _Move(offset, "nothing", "the norm subtracts the mean of each group")
    is_pair = isinstance(layer, nn.Linear) and isinstance(follower, nn.Linear)
    if is_pair and _can_take(follower.bias) and id(follower.bias) not in tied:
        carried = follower.weight @ bias.to(follower.weight.dtype)
        return _Move(bias.clone(), "next bias", "two linear layers", follower.bias, carried)
    is_softmax = isinstance(follower, (nn.Softmax, nn.LogSoftmax)) and follower.dim == -1
    if is_softmax and isinstance(layer, nn.Linear):
        return _Move(bias.mean().expand_as(bias), "nothing", "softmax ignores an offset")
    what = (
        f"{type(follower).__name__} follows"
        if follower is not None
        else "the next operation is unknown"
    )
    if keep_function:
        return _Move(None, "", f"left, the function would change: {what}")
    return _Move(bias.mean().expand_as(bias), "nothing", f"the function changed: {what}")


def _can_take(bias: Tensor | None) -> bool:
    return bias is not None and bias.requires_grad and not reason_not_measured(bias)


def _apply(name: str, layer: Any, move: _Move) -> Recentred:
    if reason_not_measured(layer.bias):
        return Recentred(name, 0.0, 0.0, 0.0, "", move.reason)
    before = float(layer.bias.double().square().mean().sqrt())
    if move.offset is None:
        return Recentred(name, 0.0, before, before, "", move.reason)
    offset = float(move.offset.double().mean())
    layer.bias.sub_(move.offset)
    if move.carrier is not None and move.carried is not None:
        move.carrier.add_(move.carried.to(move.carrier.dtype))
    after = float(layer.bias.double().square().mean().sqrt())
    return Recentred(name, offset, before, after, move.into, move.reason)
