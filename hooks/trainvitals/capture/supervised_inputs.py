"""Measure the first input of a model: its non-finite entries, the scales of its features, and
whether it contains the target of the loss (a language model whose labels were not shifted, a
feature that is the target itself).

Comes in: the arguments of a model, the target of its loss. Goes out: 0-dim tensors on their device,
without a synchronisation; nothing where input and target cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from trainvitals.capture.supervised_values import nonfinite_count, sample
from trainvitals.wire import Scalar

COLUMN_ENTRIES_MAX: Final = 65_536
"""Maximum number of entries of a batch of features that is compared with the target."""
NONFINITE_ENTRIES_MAX: Final = 1_048_576
"""Maximum number of entries of an input that is searched for NaN and infinity. Not a sample of a
larger one: a rule takes 0 as a proof that the input is finite."""
REPEATED_ENTRIES_MAX: Final = 1_024
"""Maximum number of entries of an input that are compared with those of another step."""
FEATURES_MIN: Final = 4
"""Minimum number of columns whose scales are compared."""
FAR_MIN: Final = 10.0
"""Magnitude above which an extreme value can stand for a missing one."""
SEQUENCE_MIN: Final = 8
SAMPLES_MIN: Final = 16
"""Minimum number of samples: with fewer, a column can equal the target by chance."""
CLASSES_MAX: Final = 1024
OTHERS_MAX: Final = 4
"""Maximum number of further inputs that are compared with the first one."""
FORCED_MIN: Final = 0.95
"""Share of equal entries from which another input is the first one, shifted by one."""
TOLERANCE: Final = 1e-5
"""A column contains the target if the magnitude of their correlation is at least 1 − TOLERANCE."""


def first_input(args: object, kwargs: Mapping[str, object]) -> Tensor | None:
    """Return the first tensor among a model's arguments, also in a dict or a list; None without.

    Keyword arguments that are named as a label or a target are left out. Later arguments are not
    searched, because many models take the target as the second one and return the loss.
    """
    named = {k: v for k, v in kwargs.items() if "label" not in k and "target" not in k}
    given = [*(args if isinstance(args, tuple) else ()), *named.values()]
    for value in given[:1]:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Mapping):
            return first_input((), {str(k): v for k, v in value.items()})
        if isinstance(value, (list, tuple)):
            return first_input(tuple(value), {})
    return None


class Given(NamedTuple):
    """What a model was called with."""

    first: Tensor | None = None
    others: tuple[Tensor, ...] = ()
    """Further inputs that are token numbers of the shape of the first one."""
    is_only: bool = False
    """Whether the first one is the only tensor among the arguments, labels and targets aside."""


NOT_GIVEN: Final = Given()


def given_to(args: object, kwargs: Mapping[str, object]) -> Given:
    """Return the inputs among a model's arguments."""
    first, given = first_input(args, kwargs), _inputs(args, kwargs)
    return Given(first, _others_like(first, given), len(given) == 1 and given[0] is first)


def _inputs(args: object, kwargs: Mapping[str, object]) -> list[object]:
    """Return the arguments, or the entries of the first one if that is a collection.

    Keyword arguments that are named as a label or a target are left out.
    """
    named = {k: v for k, v in kwargs.items() if "label" not in k and "target" not in k}
    given = [*(args if isinstance(args, tuple) else ()), *named.values()]
    for value in given[:1]:
        if isinstance(value, Mapping):
            return list(value.values())
        if isinstance(value, (list, tuple)):
            return list(value)
    return given


def _others_like(first: Tensor | None, given: Sequence[object]) -> tuple[Tensor, ...]:
    """Return further inputs that are token numbers of the shape of `first`, at most four."""
    if first is None or first.is_floating_point():
        return ()
    return tuple(
        x
        for x in given
        if isinstance(x, Tensor)
        and x is not first
        and x.shape == first.shape
        and x.dtype == first.dtype
        and x.device == first.device
    )[:OTHERS_MAX]


class RepeatedInput:
    """Compares the input of a sampled step with that of the sampled step before."""

    def __init__(self) -> None:
        self._before: Tensor | None = None

    def share(self, x: Tensor) -> dict[str, Tensor]:
        """Return the share of equal entries; empty for the first input.

        Keeps a copy of at most REPEATED_ENTRIES_MAX entries.
        """
        now = sample(x.detach(), entries=REPEATED_ENTRIES_MAX).clone()
        before, self._before = self._before, now
        if before is None or before.device != now.device:
            return {}
        if before.shape != now.shape or before.dtype != now.dtype:
            return {Scalar.INPUT_REPEATED: torch.zeros((), device=now.device)}
        return {Scalar.INPUT_REPEATED: (before == now).float().mean()}


def rows_of(x: Tensor) -> dict[str, Tensor]:
    """Return the number of rows of a table (rows, features); empty for other inputs."""
    if x.dim() != 2:
        return {}
    return {Scalar.INPUT_ROWS: torch.full((), float(len(x)), device=x.device)}


def nonfinite_inputs(x: Tensor) -> dict[str, Tensor]:
    """Return the number of non-finite entries of a floating-point input; empty for others."""
    if not x.is_floating_point() or x.dtype.itemsize == 1:  # 8 bits: no subtraction
        return {}
    if x.numel() > NONFINITE_ENTRIES_MAX:
        return {}
    return {Scalar.NONFINITE_INPUTS: nonfinite_count(x.detach())}


def feature_scales(x: Tensor) -> dict[str, Tensor]:
    """Return the largest RMS of a column of a table, and its ratio to the median RMS.

    Empty for other inputs than a floating-point table (samples, features) of FEATURES_MIN columns
    or more and at most COLUMN_ENTRIES_MAX entries. The ratio is infinite if most columns are 0.
    """
    if x.dim() != 2 or not x.is_floating_point() or x.dtype.itemsize == 1:
        return {}
    if x.shape[1] < FEATURES_MIN or not 0 < x.numel() <= COLUMN_ENTRIES_MAX:
        return {}
    size = x.detach().float().square().mean(0).sqrt()
    largest = size.amax()
    return {
        Scalar.INPUT_LARGEST_FEATURE: largest,
        Scalar.INPUT_FEATURE_SPREAD: largest / size.median(),
    }


def far_value(x: Tensor) -> dict[str, Tensor]:
    """Return the repeated extreme value furthest from its column's other entries, and how far.

    Empty for other inputs than those of `feature_scales`, or without such a value on the CPU. A
    column in which the opposite extreme is usual is left out: counts and pixels are mostly 0.
    """
    if x.dim() != 2 or not x.is_floating_point() or x.dtype.itemsize == 1:
        return {}
    if len(x) < SAMPLES_MIN or not 0 < x.numel() <= COLUMN_ENTRIES_MAX:
        return {}
    columns = x.detach().float()
    extreme = torch.stack(torch.aminmax(columns, dim=0))
    if extreme.is_cpu and bool((extreme.abs() <= FAR_MIN).all()):
        return {}
    is_extreme = columns == extreme[:, None]
    count = is_extreme.sum(1)
    others = len(x) - count
    mean = columns.expand(2, -1, -1).masked_fill(is_extreme, 0.0).sum(1) / others
    errors = (columns - mean[:, None]).masked_fill(is_extreme, 0.0)
    spread = (errors.square().sum(1) / others).sqrt()
    repeated = (count > 1) & (count <= others) & (4 * count.flip(0) <= others)
    distance = (extreme - mean).abs() / spread
    distance = torch.where(repeated & (spread > 0) & (extreme.abs() > FAR_MIN), distance, 0.0)
    furthest = distance.argmax()
    return {
        Scalar.INPUT_FAR_VALUE: extreme.reshape(-1)[furthest],
        Scalar.INPUT_FAR_DISTANCE: distance.reshape(-1)[furthest],
    }


def target_in_input(
    x: Tensor,
    target: Tensor,
    ignore_index: int | None,
    classes: int,
    others: Sequence[Tensor] = (),
) -> dict[str, Tensor]:
    """Return how much of the supervised targets the input `x` contains, by the scalar's name.

    Token numbers are compared entry by entry with targets at the same place; the share is NaN if
    one of the `others` is `x` shifted by one: a decoder that is given the target so far copies the
    input of the encoder on purpose. Features of shape
    (samples, features) are compared with one target per sample: 1 if a column is a linear function
    of the target, or for classes of the indicator of the batch's most frequent class, otherwise 0.
    Series of numbers (samples, times, features) are compared entry by entry.
    Empty if the two are not comparable.
    """
    if x.device != target.device or not x.numel():
        return {}
    if (share := _of_tokens(x, target, ignore_index, classes)) is not None:
        for other in others:
            share = torch.where(is_delayed(other, x), torch.nan, share)
        return {Scalar.TARGET_IN_TOKENS_SHARE: share}
    if (share := _of_sequence(x, target)) is not None:
        return {Scalar.TARGET_IN_SEQUENCE: share}
    contained = _of_columns(x, target, classes)
    return {} if contained is None else {Scalar.TARGET_IN_FEATURES: contained}


def _of_tokens(x: Tensor, target: Tensor, ignore_index: int | None, classes: int) -> Tensor | None:
    if x.is_floating_point() or target.is_floating_point() or not classes or x.dim() < 2:
        return None
    if x.dtype == torch.bool or target.dtype == torch.bool:
        return None
    if x.numel() != target.numel():
        x = x[:, :-1]  # the program dropped the last position of inputs and labels alike
        if x.numel() != target.numel() or x.numel() == 0:
            return None
    given, wanted = sample(x.reshape(-1)), sample(target.reshape(-1))
    counts = torch.ones_like(wanted, dtype=torch.bool)
    if ignore_index is not None:
        counts = wanted != ignore_index
    return ((given == wanted) & counts).sum() / counts.sum()


def _of_sequence(x: Tensor, target: Tensor) -> Tensor | None:
    if x.dim() != 3 or x.numel() != target.numel() or min(x.shape[:2]) < SEQUENCE_MIN:
        return None
    if not x.is_floating_point() or not target.is_floating_point():
        return None
    return (sample(x.reshape(-1)) == sample(target.reshape(-1))).float().mean()


def is_delayed(other: Tensor, x: Tensor) -> Tensor:
    """Whether `other` is `x` one position later, along its first or its second dimension."""
    shares = [
        (other.narrow(d, 1, n - 1) == x.narrow(d, 0, n - 1)).float().mean()
        for d, n in enumerate(x.shape[:2])
        if n > 1
    ]
    return torch.stack([*shares, torch.zeros((), device=x.device)]).amax() >= FORCED_MIN


def _of_columns(x: Tensor, target: Tensor, classes: int) -> Tensor | None:
    if x.dim() != 2 or target.numel() != x.shape[0] or x.shape[0] < SAMPLES_MIN:
        return None
    if x.shape[1] == 1:
        return None  # the only feature of an exercise without noise is not a leak
    if not x.is_floating_point() or x.numel() > COLUMN_ENTRIES_MAX:
        return None
    wide = torch.float32 if x.device.type == "mps" else torch.float64  # Metal has no float64
    columns, wanted = x.detach().to(wide), target.detach().reshape(-1).to(wide)
    best = _correlation(columns, wanted).amax()
    if 1 < classes <= CLASSES_MAX and not target.is_floating_point():
        is_class = wanted[:, None] == torch.arange(classes, device=x.device)
        majority = is_class.sum(0).argmax()
        best = torch.maximum(best, _correlation(columns, (wanted == majority).to(wide)).amax())
    return (best >= 1 - TOLERANCE).float()


def _correlation(columns: Tensor, target: Tensor) -> Tensor:
    """Return the magnitude of each column's correlation with `target`, 0 if one is constant."""
    x, y = columns - columns.mean(0), target - target.mean()
    norms = x.norm(dim=0) * y.norm()
    return torch.where(norms > 0, (y @ x).abs() / norms, 0.0).nan_to_num(0.0)
