"""Compare the choices: one row for each, and the best one if it is proven.

Comes in: the outcomes of all trainings. Goes out: rows, the winner and the reason. Pure.
The test is paired over the seeds: both choices had the same data in the same order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from trainvitals.experiments.metrics import Metric
from trainvitals.experiments.paired import interval, paired_p
from trainvitals.experiments.result import Row
from trainvitals.experiments.trial import Outcome
from trainvitals.remedies.table import number

SIGNIFICANCE: Final = 0.05
WAY: Final = 0.9
"""Share of the way from a constant prediction to the best metric, for the threshold."""
FALL_MIN: Final = 0.1
"""Share by which a loss must fall to count as learned, where the metric is the user's."""


class Verdict(NamedTuple):
    """The winner, or the choices that the test does not distinguish."""

    best: str | None
    tied: tuple[str, ...]
    reason: str


def rows_of(
    groups: dict[str, Sequence[Outcome]], metric: Metric, threshold: float | None
) -> tuple[Row, ...]:
    """Return a row for each choice; `groups` has the outcomes of a choice, one per seed."""
    return tuple(_row(name, found, metric, threshold) for name, found in groups.items())


def _row(name: str, found: Sequence[Outcome], metric: Metric, threshold: float | None) -> Row:
    values = [o.metric for o in found]
    known = [v for v in values if v is not None]
    is_complete = len(known) == len(found)
    low, high = _interval(known, metric) if is_complete else (None, None)
    headlines = Counter(o.diagnosis for o in found)
    return Row(
        choice=name,
        final_loss=_mean([o.final_loss for o in found]),
        metric=_mean(values),
        low=low,
        high=high,
        steps_to_threshold=_steps(found, metric, threshold),
        robustness=_mean([_robustness(o, metric) for o in found]),
        calibration_error=_mean([o.calibration_error for o in found]),
        signal_ratio=_geometric_mean([o.signal_ratio for o in found]),
        learned=sum(has_learned(o, metric) for o in found) > len(found) / 2,
        diagnosis=headlines.most_common(1)[0][0],
    )


def _interval(values: Sequence[float], metric: Metric) -> tuple[float, float]:
    """Return the interval of the mean, cut at the bounds of the metric."""
    (low, high), (smallest, largest) = interval(values), metric.bounds
    return max(low, smallest), min(high, largest)


def has_learned(outcome: Outcome, metric: Metric) -> bool:
    """Return whether a training is clearly better than a constant prediction."""
    if outcome.metric is None or outcome.final_loss is None or outcome.first_loss is None:
        return False
    if outcome.bar is not None:
        is_higher = outcome.metric > outcome.bar
        return is_higher if metric.higher_is_better else outcome.metric < outcome.bar
    return outcome.final_loss < outcome.first_loss - FALL_MIN * abs(outcome.first_loss)


def threshold_of(groups: dict[str, Sequence[Outcome]], metric: Metric) -> float | None:
    """Return the metric that trainings have to reach; None if no choice learned.

    The start of the way is the constant prediction, for a user's metric the worst first value.
    """
    learned = [
        found
        for found in groups.values()
        if sum(has_learned(o, metric) for o in found) > len(found) / 2
    ]
    means = [m for found in learned if (m := _mean([o.metric for o in found])) is not None]
    every = [o for found in groups.values() for o in found]
    starts = [o.constant for o in every if o.constant is not None]
    if not starts:
        starts = [o.curve[0][1] for o in every if o.curve and o.curve[0][1] is not None]
    if not means or not starts:
        return None
    best, start = (
        (max(means), min(starts)) if metric.higher_is_better else (min(means), max(starts))
    )
    return start + WAY * (best - start)


def verdict_of(
    groups: dict[str, Sequence[Outcome]], rows: Sequence[Row], metric: Metric, resolution: float
) -> Verdict:
    """Return the best choice if it beats every other one in a paired t-test over the seeds.

    The p values are multiplied by the number of comparisons (Bonferroni). A training that diverged
    counts as the worst result of its seed, and a choice with such a training is never the best.
    `resolution`: the smallest difference that the metric can show.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    candidates = [r for r in rows if r.metric is not None and r.learned]
    if not candidates:
        return Verdict(None, (), "No choice learned more than a constant prediction.")
    first = max(candidates, key=lambda r: sign * (r.metric or 0.0))
    scores = _scores(groups, sign)
    adjusted = {
        row.choice: min(1.0, _p(scores, first.choice, row.choice, resolution) * (len(rows) - 1))
        for row in rows
        if row is not first
    }
    rival = max(adjusted, key=lambda name: adjusted[name])
    tied = tuple(name for name, p in adjusted.items() if p >= SIGNIFICANCE)
    seeds = len(next(iter(groups.values())))
    test = f"paired t-test over {seeds} seeds"
    if len(adjusted) > 1:
        test += f", corrected for {len(adjusted)} comparisons"
    value = next(r for r in rows if r.choice == rival).metric
    lead = f"{first.choice} has the best {metric.name} ({number(first.metric)})"
    other = f"{rival} ({'diverged' if value is None else number(value)})"
    if not tied:
        reason = (
            f"{lead}; it beats every other choice, the least certain being {other}, with "
            f"p = {_p_text(adjusted[rival])} ({test})."
        )
        return Verdict(first.choice, (), reason)
    names = ", ".join(tied)
    reason = (
        f"No proven winner: {lead}, but it does not differ from {names} beyond the variation "
        f"between seeds (p = {_p_text(adjusted[rival])} against {other}; {test})."
    )
    return Verdict(None, (first.choice, *tied), reason)


def _scores(groups: dict[str, Sequence[Outcome]], sign: float) -> dict[str, list[float]]:
    """Return choice → metrics per seed, larger is better; a diverged one is the worst."""
    seeds = range(len(next(iter(groups.values()))))
    worst = []
    for i in seeds:
        known = [v for found in groups.values() for v in (found[i].metric, found[i].constant)]
        worst.append(min((sign * v for v in known if v is not None), default=0.0))
    return {
        name: [worst[i] if (v := found[i].metric) is None else sign * v for i in seeds]
        for name, found in groups.items()
    }


def _p(scores: dict[str, list[float]], first: str, other: str, resolution: float) -> float:
    differences = [a - b for a, b in zip(scores[first], scores[other], strict=True)]
    return paired_p(differences, resolution) if sum(differences) > 0 else 1.0


def _p_text(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "0.001 or less"


def _robustness(outcome: Outcome, metric: Metric) -> float | None:
    before, after = outcome.metric, outcome.corrupted_metric
    if not has_learned(outcome, metric) or before is None or after is None or before == 0:
        return None
    change = (after - before) / abs(before)
    return change if metric.higher_is_better else -change


def _steps(found: Sequence[Outcome], metric: Metric, threshold: float | None) -> float | None:
    if threshold is None:
        return None
    needed = [_first_step(o, metric, threshold) for o in found]
    reached = [math.inf if n is None else float(n) for n in needed]
    middle = median(reached)
    return middle if math.isfinite(middle) else None


def _first_step(outcome: Outcome, metric: Metric, threshold: float) -> int | None:
    for step, value in outcome.curve:
        if value is None:
            continue
        if value >= threshold if metric.higher_is_better else value <= threshold:
            return step
    return None


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value is missing."""
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _geometric_mean(values: Sequence[float | None]) -> float | None:
    if any(v == 0 for v in values):
        return 0.0
    mean = _mean([None if v is None else math.log(v) for v in values])
    return None if mean is None else math.exp(mean)
