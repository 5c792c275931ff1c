"""Compare two runs of a collector: differences in the configuration and the optimizers, and the
first step at which they diverge.

Comes in: a `Client` and two runs. Goes out: a `Comparison`.
Values are equal if they differ by at most `TOLERANCE` of the larger one: sums in float32 in another
order differ by that much.
Start at `compare`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from trainvitals.api.client import Client
from trainvitals.api.schema import Curve, Heatmap, RunDetail
from trainvitals.wire import EventKind, Scalar, Stat, Stream

TOLERANCE: Final = 64 * 2.0**-23
"""64 units in the last place of float32, relative."""
POINTS: Final = 2000
NAMES_MAX: Final = 4
COLUMNS: Final = 400
SCALARS: Final = (str(Scalar.LOSS), str(Scalar.GRADIENT_NORM))
KINDS: Final = (f"{Scalar.LOSS}/", f"{Scalar.LOSS_TERM}/", f"{Scalar.LEARNING_RATE}/")
"""Beginnings of the names of scalars that are compared beside `SCALARS`: losses of other splits,
terms of the loss, and the learning rate of each parameter group."""
LAYERS: Final = (
    (Stream.WEIGHT, Stat.L2),
    (Stream.ACTIVATION, Stat.STD),
    (Stream.GRADIENT, Stat.L2),
    (Stream.UPDATE, Stat.RMS),
)
"""In the order of their places in a step: weights, outputs, gradients, updates."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first step at which two runs differ in one quantity."""

    step: int
    stream: str
    statistic: str
    place: str
    a: float | None
    b: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Where two runs agree and where they diverge."""

    a: str
    b: str
    verdicts: tuple[str, str]
    config: dict[str, tuple[Any, Any]] = {}
    """Name → both values, where they differ; a value that a run lacks is None."""
    optimizer: dict[str, tuple[Any, Any]] = {}
    """Class and hyperparameters by name, as `config`; see `optimizers_of`."""
    versions: dict[str, tuple[str, str]] = {}
    scalars: tuple[Difference, ...] = ()
    """The first difference of each loss, the gradient norm and each learning rate, the earliest
    first. Other scalars are not compared: some are times."""
    layer: Difference | None = None
    """The first layer that differs, at the earliest step that both runs measured."""
    steps: tuple[int, int] = (0, 0)
    """Number of steps of both runs."""
    weights: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Names of the weights that only the first run has, and those that only the second has: they
    are not compared."""

    @property
    def is_same(self) -> bool:
        """Whether both runs have the same weights and steps, and their values do not differ.

        False if nothing was recorded.
        """
        of_one = self.scalars or self.layer is not None or any(self.weights)
        return not of_one and self.steps[0] == self.steps[1] > 0


def compare(client: Client, a: str, b: str) -> Comparison:
    """Return where the runs `a` and `b` differ. Raises Unreachable or Refused."""
    first, second = client.run(a), client.run(b)
    optimizers = optimizers_of((first, second))
    places = [_places(client, run, Stream.SCALAR) for run in (first, second)]
    common = [name for name in places[0] if name in places[1] and _is_compared(name)]
    scalars = [d for name in common if (d := _scalar(client, first, second, name)) is not None]
    scalars.sort(key=lambda d: d.step)
    until = scalars[0].step if scalars else min(first.step, second.step)
    return Comparison(
        a=first.id,
        b=second.id,
        verdicts=(str(first.verdict), str(second.verdict)),
        config=_different(flat(first.config), flat(second.config)),
        optimizer=_different(*optimizers),
        versions={
            name: (str(x), str(y))
            for name, (x, y) in _different(_about(first), _about(second)).items()
        },
        scalars=tuple(scalars),
        layer=_layer(client, first, second, until),
        steps=(first.step + 1, second.step + 1),
        weights=_of_one(*(_places(client, run, Stream.WEIGHT) for run in (first, second))),
    )


def is_close(a: float | None, b: float | None) -> bool:
    """Whether two values are equal within rounding; None (not measured) is equal to anything."""
    if a is None or b is None:
        return True
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration with the names of its leaves joined by dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def optimizers_of(runs: Sequence[RunDetail]) -> list[dict[str, Any]]:
    """Return the classes of the optimizers of each run and their hyperparameters, by name.

    Names are "optimizer class" and, for a second optimizer, "optimizer 1 class"; "optimizer betas"
    and, for a second parameter group, "optimizer betas of group 1". The value of another group is
    left out if it is that of group 0 in every run. All values are those of the optimizer's first
    step, and "optimizer lr at the first step" says so, since schedules change it. For a run without
    a step, only the class of the optimizer that was given to `watch`.
    """
    found = [_optimizers(run) for run in runs]
    keys = dict.fromkeys(key for known in found for key in known)
    kept = [key for key in keys if any(_is_of_its_own(key, known) for known in found)]
    return [{key.text: known[key] for key in kept if key in known} for known in found]


class _Hyperparameter(NamedTuple):
    optimizer: int
    name: str
    group: int = 0

    @property
    def text(self) -> str:
        prefix = f"optimizer {self.optimizer}" if self.optimizer else "optimizer"
        of = f" of group {self.group}" if self.group else ""
        when = " at the first step" if self.name == "lr" else ""
        return f"{prefix} {self.name}{of}{when}"


def _optimizers(run: RunDetail) -> dict[_Hyperparameter, Any]:
    found: dict[_Hyperparameter, Any] = {}
    for event in run.events:
        if event.kind != EventKind.OPTIMIZER:
            continue
        index = int(event.attributes.get("optimizer") or 0)
        if _Hyperparameter(index, "class") in found:
            continue  # of a later attempt
        found[_Hyperparameter(index, "class")] = event.text
        found[_Hyperparameter(index, "groups")] = int(event.attributes.get("groups") or 0)
        for key, value in event.attributes.items():
            name, _, group = key.rpartition("/")
            if name and group.isdecimal():
                found[_Hyperparameter(index, name, int(group))] = value
    if not found and (given := run.metadata.facts.get("optimizer")):
        found[_Hyperparameter(0, "class")] = given
    return found


def _is_of_its_own(key: _Hyperparameter, known: Mapping[_Hyperparameter, Any]) -> bool:
    """Return whether the run has this value and it is not that of group 0."""
    first = known.get(key._replace(group=0))
    return key in known and (key.group == 0 or known[key] != first)


def _different(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys((*a, *b))
    # As text: 1 and True, or 1 and 1.0, are not the same setting.
    return {
        name: (a.get(name), b.get(name))
        for name in names
        if json.dumps(a.get(name), default=str) != json.dumps(b.get(name), default=str)
    }


def _about(run: RunDetail) -> dict[str, str]:
    meta = run.metadata
    return {**meta.versions, "git commit": meta.git_commit, "host": run.host}


def listed(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    rest = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {rest:,} more" if rest > 0 else "")


def _places(client: Client, run: RunDetail, stream: Stream) -> list[str]:
    layout = client.layout(run.id).of(stream)
    return [] if layout is None else [place.name for place in layout.places]


def _of_one(a: Sequence[str], b: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what only `a` contains and what only `b` contains, in their order."""
    return tuple(x for x in a if x not in set(b)), tuple(x for x in b if x not in set(a))


def _is_compared(name: str) -> bool:
    return name in SCALARS or name.startswith(KINDS)


def _scalar(client: Client, a: RunDetail, b: RunDetail, name: str) -> Difference | None:
    """Return the first step at which a scalar of both runs differs; None without one."""
    lo, hi = 0, min(a.step, b.step)
    while lo <= hi:
        first = _first_bucket(*(_curve(client, run, name, lo, hi) for run in (a, b)))
        if first is None:
            return None
        start, end, x, y = first
        if end <= start:
            return Difference(
                step=start,
                stream=str(Stream.SCALAR),
                statistic=str(Stat.VALUE),
                place=name,
                a=x,
                b=y,
            )
        if (start, end) == (lo, hi):
            return None  # the buckets do not become smaller
        lo, hi = start, end
    return None


def _curve(client: Client, run: RunDetail, name: str, lo: int, hi: int) -> Curve:
    series = client.series(
        run.id, Stream.SCALAR, Stat.VALUE, [name], from_step=lo, to_step=hi, points=POINTS
    )
    return series.series[0]


def _first_bucket(a: Curve, b: Curve) -> tuple[int, int, float | None, float | None] | None:
    """Return (first step, last step, values) of the first bucket that differs."""
    others = {step: i for i, step in enumerate(b.step)}
    for i, step in enumerate(a.step):
        j = others.get(step)
        if j is None:
            continue
        same = all(
            is_close(x[i], y[j]) for x, y in ((a.min, b.min), (a.max, b.max), (a.last, b.last))
        )
        if not same or a.nonfinite[i] != b.nonfinite[j]:
            return step, max(a.last_step[i], b.last_step[j]), a.last[i], b.last[j]
    return None


def _layer(client: Client, a: RunDetail, b: RunDetail, until: int) -> Difference | None:
    """Return the first layer that differs, in the steps up to `until` and some after it."""
    lo, hi = max(0, until - COLUMNS // 2), until + COLUMNS // 2 - 1
    found = []
    for order, (stream, statistic) in enumerate(LAYERS):
        maps = [_heat(client, run, stream, statistic, lo, hi) for run in (a, b)]
        if maps[0] is None or maps[1] is None:
            continue
        if (difference := _first_cell(maps[0], maps[1])) is not None:
            found.append((difference.step, order, difference))
    return min(found, key=lambda x: x[:2])[2] if found else None


def _heat(
    client: Client, run: RunDetail, stream: str, statistic: str, lo: int, hi: int
) -> Heatmap | None:
    layout = client.layout(run.id).of(stream)
    if layout is None or not layout.places or statistic not in layout.statistics:
        return None
    return client.heatmap(run.id, stream, statistic, from_step=lo, to_step=hi, columns=COLUMNS)


def _first_cell(a: Heatmap, b: Heatmap) -> Difference | None:
    rows = {place: i for i, place in enumerate(b.places)}
    columns = {step: i for i, step in enumerate(b.steps)}
    for at, step in enumerate(a.steps):
        if step not in columns:
            continue
        for place, values in _rows(a):
            if place not in rows:
                continue
            x, y = values[at], b.values[rows[place]][columns[step]]
            if not is_close(x, y):
                return Difference(
                    step=step, stream=a.stream, statistic=a.statistic, place=place, a=x, b=y
                )
    return None


def _rows(heat: Heatmap) -> Iterable[tuple[str, list[float | None]]]:
    return zip(heat.places, heat.values, strict=True)
