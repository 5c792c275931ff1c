"""Audit the biases of a model: extremes, drift, and their size against the pre-activations."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainvitals.remedies.diversity import IMBALANCE_MAX, Subset, majority, subsets_of
from trainvitals.remedies.running import call, evaluation
from trainvitals.remedies.surroundings import followers_of, surroundings_of
from trainvitals.remedies.table import number, text_table
from trainvitals.structure.fans import CONVOLUTIONS, TRANSPOSED
from trainvitals.structure.parameters import reason_not_measured

BATCHES_MAX: Final = 16
"""Number of batches that are read."""
RATIO_HIGH: Final = 1.0
RATIO_RAISED: Final = 0.4
"""The limits of TV701, in pre-activation scales S."""
COMMON_HIGH: Final = 0.9
"""Share of a change that is the same for all units, from which on it is an offset."""
OUTLIER: Final = 10.0
"""A bias this many times the median of its layer is extreme."""
UNITS_MIN: Final = 8
"""Layers with fewer units have no meaningful median."""
_LAYERS: Final = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)


@dataclass(frozen=True)
class BiasRow:
    """The bias of one layer. All numbers but the shares are in the unit of the pre-activations."""

    parameter: str
    low: float
    high: float
    rms: float
    scale: float | None
    """S: RMS over units of the standard deviation of the pre-activations over samples and
    positions, which the bias does not change; None if the layer was not called."""
    drift: float | None
    """RMS of the change since the earlier state; None without one."""
    common: float
    """|mean| against RMS, of the change or of the bias itself, 0 to 1: 1 is one offset for all."""
    ratio: float | None
    """Drift against S; without an earlier state, RMS against S."""
    advice: str
    """"" if there is nothing to do."""


@dataclass(frozen=True)
class Audit:
    """The biases, and the subsets of the data that they may come from; prints as two tables."""

    rows: tuple[BiasRow, ...]
    subsets: tuple[Subset, ...]
    samples: int

    def of(self, parameter: str) -> BiasRow:
        """Return the row of a bias. Raises KeyError if there is none of this name."""
        for row in self.rows:
            if row.parameter == parameter:
                return row
        raise KeyError(parameter)

    def __str__(self) -> str:
        biases = text_table(
            ("bias", "min", "max", "rms", "S", "drift", "common", "ratio", "advice"),
            [
                (
                    row.parameter,
                    *(number(v) for v in (row.low, row.high, row.rms, row.scale, row.drift)),
                    f"{row.common:.0%}",
                    number(row.ratio),
                    row.advice,
                )
                for row in self.rows
            ],
        )
        data = text_table(
            ("data", "where", "share", "effect"),
            [(s.kind, s.where, f"{s.share:.1%}", s.effect) for s in self.subsets],
        )
        return f"{biases}\n\n{data if self.subsets else 'No one-sided subset of the data found.'}"


def audit(
    model: nn.Module,
    batches: Tensor | Iterable[Any],
    targets: Tensor | None = None,
    *,
    initial: Mapping[str, Tensor] | None = None,
) -> Audit:
    """Return the state of the biases of linear and convolutional layers, with advice.

    `batches`: a tensor of inputs, or an iterable (list, DataLoader) of tensors, of pairs (inputs,
    targets) or of dicts that are passed as keyword arguments without "labels". At most
    16 are read. `targets` belong to one tensor of inputs. `initial` is an earlier `state_dict`.

    The model runs without gradients in eval mode; its modes and the random state are restored.
    Raises ValueError if there is no batch or no bias, or if `initial` has another shape.
    """
    biases = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS)
        and isinstance(module.bias, Tensor)
        and not reason_not_measured(module.bias)
    }
    if not biases:
        raise ValueError("The model has no linear or convolutional layer with a bias.")
    before = {name: _earlier(name, biases[name], initial) for name in biases}
    pairs = list(_pairs(batches, targets))
    if not pairs:
        raise ValueError("There is no batch: the scale of the pre-activations is not known.")
    scales = _scales(model, biases, [inputs for inputs, _ in pairs])
    followers = followers_of(model)
    rows = [
        _row(_full(name), module, before[name], scales[name], followers.get(name))
        for name, module in biases.items()
    ]
    inputs = _joined([x for x, _ in pairs])
    labels = _joined([y for _, y in pairs])
    subsets = subsets_of(inputs, labels)
    places = surroundings_of(model)
    for at, (name, module) in enumerate(biases.items()):
        if name in places and places[name].is_output:
            rows[at] = _with_class(rows[at], module, labels)
    samples = len(inputs) if inputs is not None else sum(_size(x) for x, _ in pairs)
    return Audit(tuple(rows), tuple(subsets), samples)


def _full(module: str) -> str:
    return f"{module}.bias" if module else "bias"


def _earlier(name: str, module: Any, initial: Mapping[str, Tensor] | None) -> Tensor | None:
    if initial is None:
        return None
    full = _full(name)
    if full not in initial:
        raise ValueError(f"The earlier state has no {full!r}; expected a state_dict of this model.")
    if initial[full].shape != module.bias.shape:
        raise ValueError(
            f"{full} has shape {tuple(module.bias.shape)} now and {tuple(initial[full].shape)} in "
            "the earlier state."
        )
    return initial[full].detach().double().cpu()


def _pairs(batches: Any, targets: Tensor | None) -> Iterator[tuple[Any, Tensor | None]]:
    if isinstance(batches, Tensor):
        if targets is not None and len(targets) != len(batches):
            raise ValueError(f"There are {len(batches)} inputs and {len(targets)} targets.")
        yield batches, targets
        return
    if targets is not None:
        raise ValueError("targets belong to one tensor of inputs; put them into the batches.")
    if isinstance(batches, Mapping):
        raise TypeError("batches is a dict; pass a list of dicts.")
    for batch in itertools.islice(batches, BATCHES_MAX):
        if isinstance(batch, Mapping):
            labels = batch.get("labels")
            yield {k: v for k, v in batch.items() if k != "labels"}, labels
        elif isinstance(batch, Tensor):
            yield batch, None
        elif isinstance(batch, (tuple, list)) and len(batch) == 2:
            yield batch[0], batch[1]
        else:
            raise TypeError(
                f"A batch is a {type(batch).__name__}; expected a tensor, a pair (inputs, targets) "
                "or a dict."
            )


def _size(inputs: Any) -> int:
    return len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)


def _joined(parts: list[Any]) -> Tensor | None:
    """Return all rows in one tensor on the host; None if they are of different kinds or missing."""
    if not all(isinstance(part, Tensor) for part in parts):
        return None
    if len({(part.shape[1:], part.dtype) for part in parts}) != 1:
        return None
    return torch.cat([part.detach().cpu() for part in parts])


class _Moments:
    """Count, sum and sum of squares of each unit, in float64."""

    def __init__(self, module: nn.Module) -> None:
        self._dim = -1 if isinstance(module, nn.Linear) else -len(module.kernel_size) - 1  # type: ignore[arg-type]
        self.count = 0
        self.total: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def __call__(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        rows = output.detach().movedim(self._dim, -1).flatten(0, -2).double()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.square = self.square + rows.square().sum(0)

    @property
    def scale(self) -> float | None:
        """S; None if the layer was not called."""
        if not self.count or isinstance(self.total, float):
            return None
        variance = self.square / self.count - (self.total / self.count).square()
        return float(variance.clamp(min=0).mean().sqrt())


def _scales(
    model: nn.Module, biases: Mapping[str, nn.Module], inputs: list[Any]
) -> dict[str, float | None]:
    moments = {name: _Moments(module) for name, module in biases.items()}
    handles = [biases[name].register_forward_hook(hook) for name, hook in moments.items()]
    try:
        with evaluation(model):
            for x in inputs:
                call(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return {name: hook.scale for name, hook in moments.items()}


def _row(
    name: str,
    module: Any,
    before: Tensor | None,
    scale: float | None,
    follower: nn.Module | None,
) -> BiasRow:
    bias = module.bias.detach().double().cpu()
    change = bias if before is None else bias - before
    size = _rms(change)
    ratio = size / scale if scale else None
    common = abs(float(change.mean())) / size if size else 0.0
    return BiasRow(
        name,
        float(bias.min()),
        float(bias.max()),
        _rms(bias),
        scale,
        None if before is None else size,
        common,
        ratio,
        _advice(bias, scale, ratio, common, follower),
    )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _advice(
    bias: Tensor,
    scale: float | None,
    ratio: float | None,
    common: float,
    follower: nn.Module | None,
) -> str:
    if isinstance(follower, nn.modules.batchnorm._NormBase):
        return "redundant before the norm: bias=False, or recentre()"
    if scale is None:
        return "the layer was not called"
    if ratio is None:
        return "no unit varies over these inputs"
    if ratio > RATIO_HIGH and common > COMMON_HIGH and len(bias) > 1:
        return "one offset for all units: standardise inputs and targets, then recentre()"
    if ratio > RATIO_HIGH:
        return "larger than the signal: bias_learning_rate=lr/10 in an optimizer group of its own"
    if ratio > RATIO_RAISED:
        return "raised: bias_penalty(l2=…) or bias_weight_decay"
    sizes = bias.abs()
    if len(bias) >= UNITS_MIN and float(sizes.max()) > max(OUTLIER * float(sizes.median()), scale):
        return f"unit {int(sizes.argmax())} is extreme: bias_penalty(l1=…)"
    return ""


def _with_class(row: BiasRow, head: Any, targets: Tensor | None) -> BiasRow:
    """Name the class that the head's largest bias stands for."""
    frequent = majority(targets) if targets is not None else None
    if frequent is None:
        return row
    which, share, ratio = frequent
    if ratio <= IMBALANCE_MAX or head.bias.numel() < 2 or int(head.bias.argmax()) != which:
        return row
    text = f"largest at unit {which}, the class of {share:.0%} of the targets"
    advice = f"{row.advice}; {text}" if row.advice else text
    return BiasRow(**{**vars(row), "advice": advice})
