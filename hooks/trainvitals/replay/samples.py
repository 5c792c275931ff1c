"""Measure each sample of one batch in one forward pass of the whole batch.

One pass, not one per sample: dropout masks and the statistics of batch norm are those of the batch.
The gradient of a sample's loss is taken through the same graph; if samples are not finite, through
that of a second pass without them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainvitals.checkups.batches import called, divided, prediction_of, samples_of

Loss = Callable[..., Any]


@dataclass
class Measured:
    """What was measured in one batch; the lists have an entry for each sample."""

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    input_rms: list[float] = field(default_factory=list)
    nonfinite_in: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """"input", "target", and the modules in the order in which the forward pass called them."""
    total: float = math.nan
    """The loss of the whole batch, as the training computes it: one call with all rows. With class
    weights, ignored targets or reduction="sum" it is not the mean of `losses`."""


def measured(model: nn.Module, batch: object, loss: Loss | None) -> Measured:
    """Return the losses, gradient norms and first non-finite places of the samples of a batch.

    `loss` is called with (prediction, target); None: the model returns the loss of a batch, and
    each sample is a further pass of its own, with other dropout masks. Raises ValueError if there
    is no loss per sample.
    """
    count = samples_of(batch)
    if not count:
        raise ValueError("The batch has no samples: its first tensor has no rows.")
    rows = rows_of(batch, count)
    places = Places(count)
    inputs, target = divided(batch)
    places.saw("input", inputs)
    places.saw("target", target)
    with places.observing(model):
        losses, total = _losses(model, batch, loss, count)
    found = Measured(
        losses=[float(value.detach()) for value in losses],
        gradient_norms=[math.nan] * count,
        input_rms=[_rms(row) for row in rows],
        nonfinite_in=[places.first.get(row, "") for row in range(count)],
        places=places.order,
        total=total,
    )
    kept = [row for row in range(count) if row not in places.first]
    if not kept:
        return found
    if len(kept) < count:
        # 0 · NaN is NaN: in the graph of the whole batch, one bad row makes the gradients of all
        # rows NaN. The others are run again without it.
        del losses
        rest = selected(batch, kept, count)
        values = dict(zip(kept, _losses(model, rest, loss, len(kept))[0], strict=True))
    else:
        values = dict(enumerate(losses))
    parameters = [p for p in model.parameters() if p.requires_grad]
    for row, value in values.items():
        norm = _norm(torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True))
        found.gradient_norms[row] = norm
        if not torch.isfinite(value):
            found.nonfinite_in[row] = "loss"
        elif not math.isfinite(norm):
            found.nonfinite_in[row] = "gradient"
    return found


def _losses(
    model: nn.Module, batch: object, loss: Loss | None, count: int
) -> tuple[list[Tensor], float]:
    """Return the loss of each sample, with its graph, and that of the whole batch."""
    if loss is None:
        # The whole batch first: it draws the dropout masks of the training, and its mean over
        # targets is that of the training also if the rows have different numbers of targets.
        total = float(_own_loss(model, batch).detach())
        return [_own_loss(model, row) for row in rows_of(batch, count)], total
    inputs, target = divided(batch)
    prediction = prediction_of(called(model, inputs))
    with torch.no_grad():
        # First: a loss that draws random numbers draws those that it drew in the training.
        whole = torch.as_tensor(loss(prediction, target)).double().mean()
    return losses_of(loss, prediction, target, count), float(whole)


def selected(value: Any, rows: Sequence[int], count: int) -> Any:
    """Return a batch of some of the rows; what has no rows stays whole."""
    if isinstance(value, Tensor):
        return value[list(rows)] if value.dim() and len(value) == count else value
    if isinstance(value, Mapping):
        return {key: selected(part, rows, count) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(selected(part, rows, count) for part in value)
    return value


def losses_of(loss: Loss, prediction: Any, target: Any, count: int) -> list[Tensor]:
    """Return the loss of each sample, with its graph.

    A loss module with `reduction` gives all losses at once, averaged over the other dimensions;
    any other function is called with one row at a time.
    """
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        each = copy.copy(loss)
        each.reduction = "none"  # type: ignore[assignment]
        values = each(prediction, target)
        if isinstance(values, Tensor) and values.dim() and len(values) == count:
            return [row.mean() for row in values]
    found = []
    pairs = zip(rows_of(prediction, count), rows_of(target, count), strict=True)
    for one, its_target in pairs:
        value = loss(one, its_target)
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise ValueError("The loss of a sample is no tensor that depends on the parameters.")
        found.append(value.mean())
    return found


def rows_of(value: Any, count: int) -> list[Any]:
    """Return the samples of a batch as batches of one; what has no rows is in each of them."""
    if isinstance(value, Tensor):
        whole = value.dim() and len(value) == count
        return [value[i : i + 1] if whole else value for i in range(count)]
    if isinstance(value, Mapping):
        parts = {key: rows_of(part, count) for key, part in value.items()}
        return [{key: rows[i] for key, rows in parts.items()} for i in range(count)]
    if isinstance(value, (list, tuple)):
        columns = [rows_of(part, count) for part in value]
        return [tuple(column[i] for column in columns) for i in range(count)]
    return [value] * count


class Places:
    """The first place of each row at which it is not finite; a place where all rows are is none.

    A layer that mixes the samples, such as batch norm, spreads one bad row to all. The places
    before it name the row; it and the places after it are ignored.
    """

    def __init__(self, count: int) -> None:
        self.first: dict[int, str] = {}
        self.order: list[str] = []
        self._count = count
        self._is_mixed = False

    def saw(self, place: str, value: object) -> None:
        """Record the rows of a value that are not finite."""
        if place not in self.order:
            self.order.append(place)
        if self._is_mixed:
            return
        for tensor in _floats(value):
            if not tensor.dim() or len(tensor) != self._count:
                continue
            bad = ~torch.isfinite(tensor.detach()).reshape(self._count, -1).all(dim=1)
            rows = bad.nonzero().reshape(-1).tolist()
            self._is_mixed |= len(rows) == self._count and len(self.first) > 0
            if self._is_mixed:
                return
            for row in rows:
                self.first.setdefault(row, place)

    @contextmanager
    def observing(self, model: nn.Module) -> Any:
        """Observe the outputs of all modules while the block runs."""

        def hook_of(name: str) -> Callable[..., None]:
            return lambda _module, _args, output: self.saw(name, output)

        handles = [
            module.register_forward_hook(hook_of(name or "model"))
            for name, module in model.named_modules()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _own_loss(model: nn.Module, row: object) -> Tensor:
    output = called(model, divided(row)[0])
    value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", output)
    if isinstance(value, (tuple, list)):
        value = next((v for v in value if isinstance(v, Tensor) and not v.dim()), None)
    if not isinstance(value, Tensor) or not value.requires_grad or value.numel() != 1:
        raise ValueError("The model returns no loss, and the factory gives none.")
    return value.reshape(())


def _norm(gradients: Sequence[Tensor | None]) -> float:
    squares = [float(g.detach().double().square().sum()) for g in gradients if g is not None]
    return float(sum(squares) ** 0.5)


def _rms(row: object) -> float:
    tensors = [t.detach().double().reshape(-1) for t in _floats(divided(row)[0])]
    if not tensors:
        return float("nan")
    return float(torch.cat(tensors).square().mean().sqrt())


def _floats(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.numel() else []
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in _floats(part)]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _floats(part)]
    return []
