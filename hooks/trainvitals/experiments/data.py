"""The data of a training: what it trains on, in which order, and what is held out.

Comes in: (inputs, targets), or a function seed → iterable of such batches. Goes out: `Material`.
Everything depends on the seed only, so that every choice gets the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from trainvitals.experiments.form import Form
from trainvitals.remedies.tasks import IGNORED

Batch = tuple[Any, Tensor]
Data = tuple[Any, Tensor] | Callable[[int], Iterable[Batch]]

HELD_OUT: Final = 0.25
"""Share of the samples (or batches) that is held out."""
HELD_OUT_BATCHES_MAX: Final = 16
SPLIT_SEED: Final = 0
SAMPLES_MIN: Final = 8
OUTLIERS: Final = 0.1
"""Share of the training targets that are corrupted to measure the robustness."""
OUTLIER_SIZE: Final = 10.0
"""Shift of a corrupted quantity, in robust standard deviations of the targets."""


@dataclass(frozen=True)
class Material:
    """What one training gets."""

    training: list[Batch]
    """The batches in their order; with `batch_size`, the whole training set as one."""
    held_out: list[Batch]
    batch_size: int | None

    def batches(self, seed: int, steps: int) -> Iterator[Batch]:
        """Yield `steps` batches: shuffled anew in each epoch, or the given ones in a cycle."""
        if self.batch_size is None:
            yield from itertools.islice(itertools.cycle(self.training), steps)
            return
        inputs, targets = self.training[0]
        size = min(self.batch_size, len(targets))
        generator = torch.Generator().manual_seed(seed)
        epoch = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(epoch) < size:  # the rest of an epoch is left out
                epoch = torch.randperm(len(targets), generator=generator)
            yield taken(inputs, epoch[:size]), taken(targets, epoch[:size])
            epoch = epoch[size:]

    def corrupted(self, form: Form, seed: int) -> Material:
        """Return the same with 10 % of the training targets wrong: see `corrupted`."""
        generator = torch.Generator().manual_seed(seed)
        training = [(x, corrupted(form, y, generator)) for x, y in self.training]
        return replace(self, training=training)


def material_of(
    data: Data, held_out: Batch | None, batch_size: int, seed: int, steps: int
) -> Material:
    """Return the data of the training with this seed.

    Pairs: a quarter of the samples is held out, the same for every seed. A function: of the batches
    for the seed, the first quarter is held out (at most 16). `held_out` replaces both.

    Raises TypeError or ValueError if the data are neither, are too few, or do not fit together.
    """
    if callable(data):
        return _from_function(data, held_out, seed, steps)
    inputs, targets = checked_pair("data", data)
    if held_out is not None:
        return Material([(inputs, targets)], [checked_pair("held_out", held_out)], batch_size)
    if len(targets) < SAMPLES_MIN:
        raise ValueError(f"data has {len(targets)} samples; expected at least {SAMPLES_MIN}.")
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(targets), generator=generator)
    count = round(HELD_OUT * len(targets))
    first, rest = order[:count], order[count:]
    return Material(
        [(taken(inputs, rest), taken(targets, rest))],
        [(taken(inputs, first), taken(targets, first))],
        batch_size,
    )


def _from_function(
    data: Callable[[int], Iterable[Batch]], held_out: Batch | None, seed: int, steps: int
) -> Material:
    torch.manual_seed(seed)
    try:
        made = data(seed)
        found = list(itertools.islice(iter(made), steps + HELD_OUT_BATCHES_MAX))
    except Exception as error:
        raise ValueError(
            f"data({seed}) failed: {type(error).__name__}: {error}. Expected an iterable of "
            "batches (inputs, targets)."
        ) from error
    batches = [checked_pair(f"batch {i} of data({seed})", batch) for i, batch in enumerate(found)]
    if held_out is not None and batches:
        return Material(batches, [checked_pair("held_out", held_out)], None)
    if len(batches) < 2:
        raise ValueError(
            f"data({seed}) has {len(batches)} batches; expected at least 2: one is held out."
        )
    count = max(1, min(HELD_OUT_BATCHES_MAX, int(HELD_OUT * len(batches))))
    return Material(batches[count:], batches[:count], None)


def checked_pair(what: str, pair: object) -> Batch:
    """Return (inputs, targets). Raises TypeError or ValueError if it is no such pair."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[1], Tensor):
        raise TypeError(
            f"{what} is a {type(pair).__name__}; expected a pair (inputs, targets) whose targets "
            "are a tensor."
        )
    inputs, targets = pair
    if targets.dim() == 0:
        raise ValueError(f"{what}: targets have no dimension; expected one row per sample.")
    for tensor in _tensors(what, inputs):
        if tensor.dim() == 0 or len(tensor) != len(targets):
            raise ValueError(
                f"{what}: inputs have shape {tuple(tensor.shape)} and targets "
                f"{tuple(targets.shape)}; expected the same number of samples."
            )
    return inputs, targets


def _tensors(what: str, inputs: object) -> list[Tensor]:
    values = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    found = [values] if isinstance(values, Tensor) else values
    if not isinstance(found, (list, tuple)) or not all(isinstance(v, Tensor) for v in found):
        raise TypeError(
            f"{what}: inputs are a {type(inputs).__name__}; expected a tensor, or a dict or a "
            "tuple of tensors."
        )
    return list(found)


def taken(value: Any, rows: Tensor) -> Any:
    """Return some rows of a tensor, or of each tensor in a dict or a tuple."""
    if isinstance(value, Mapping):
        return {key: taken(v, rows) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(taken(v, rows) for v in value)
    return value[rows.to(value.device)]


def chunks_of(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield the samples of a batch in order, at most `size` at a time."""
    inputs, targets = batch
    for start in range(0, len(targets), size):
        rows = torch.arange(start, min(start + size, len(targets)))
        yield taken(inputs, rows), taken(targets, rows)


def first_samples(batches: Sequence[Batch], count: int) -> list[Batch]:
    """Return the first `count` samples, or all if there are fewer."""
    found, left = [], count
    for batch in batches:
        if left <= 0:
            break
        found.append(next(chunks_of(batch, left)))
        left -= len(batch[1])
    return found


def corrupted(form: Form, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Return the targets with 10 % of the samples wrong.

    A quantity moves by ± 10 robust standard deviations, a label is flipped, a class becomes
    another one, shares of classes are exchanged between classes.
    """
    hit = torch.rand(len(targets), generator=generator) < OUTLIERS
    sign = (torch.rand(len(targets), generator=generator) < 0.5).to(targets.dtype) * 2 - 1
    shift = torch.randint(1, max(2, form.classes), targets.shape, generator=generator)
    hit, sign, shift = (v.to(targets.device) for v in (hit, sign, shift))
    wide = (-1, *[1] * (targets.dim() - 1))
    if form.kind == "regression":
        moved = targets + (sign.reshape(wide) * (OUTLIER_SIZE * form.sigma)).to(targets.dtype)
    elif form.kind in ("binary", "multi_label"):
        moved = (targets == 0).to(targets.dtype)
    elif targets.is_floating_point() or targets.shape[-1:] == (form.classes,) != targets.shape:
        moved = targets.roll(1, -1)  # one-hot rows, or shares
    else:
        moved = torch.where(targets == IGNORED, targets, (targets + shift) % form.classes)
    return torch.where(hit.reshape(wide), moved, targets)
