"""Scores of outcomes: pure functions, no torch and no trainvitals.

Comes in: pairs of outcomes (faulty and repaired) and the outcomes of controls.
Goes out: `Scores`. Start at `scores`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

BETTER_SHARE = 0.9
"""A twin is better when its metric is at most this share of the faulty run's."""
TOP = 3
PROVEN = "proven"
NO_FIX = "no fix offered"


class Named(Protocol):
    """A finding: its rule and its place."""

    @property
    def rule(self) -> str: ...
    @property
    def where(self) -> str: ...


def place_of(finding: Named) -> str:
    """Return " at " and the finding's place; "" for a finding about the whole run."""
    return f" at {finding.where}" if finding.where else ""


@dataclass(frozen=True)
class Pair:
    """A faulty run, judged. The figures of its twin are in `Scores.healthy`."""

    case: str
    kind: str
    split: str
    flagged: bool
    open_at_end: bool
    top1: bool
    top3: bool
    place: bool | None
    """None for a fault without a single place."""
    steps_to_alert: int | None
    """From the fault's onset to the first alarm after it."""
    findings: int
    headline: str
    """rule at place, "" without an open alarm."""
    verdict: str
    fix: str | None = None
    """The result of a training with the headline's fix; None if the headline names no cause."""
    others: tuple[str, ...] = ()
    """The rules of other tools that fire in the faulty run."""


@dataclass(frozen=True)
class Rate:
    """A share with its Wilson 95 % interval."""

    hits: int
    of: int

    @property
    def share(self) -> float:
        return self.hits / self.of if self.of else math.nan

    def __str__(self) -> str:
        if not self.of:
            return "–"
        low, high = wilson(self.hits, self.of)
        return f"{self.share:.1%} ({self.hits}/{self.of}; {low:.1%} to {high:.1%})"


@dataclass(frozen=True)
class Scores:
    """The figures of a set of pairs."""

    recall: Rate
    open_at_end: Rate
    top1: Rate
    top3: Rate
    place: Rate
    fix: Rate
    """Share of the pairs with an acceptable headline whose fix is proven."""
    alert_median: float
    alert_p90: float
    findings_mean: float


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson interval of a share; (0, 1) without observations.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    if of == 0:
        return 0.0, 1.0
    share = hits / of
    centre = share + z * z / (2 * of)
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    scale = 1 + z * z / of
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def in_top(shown: Sequence[Named], causes: Collection[str], k: int) -> bool:
    """Return whether one of the first `k` findings names an acceptable cause."""
    return any(finding.rule in causes for finding in shown[:k])


def place_right(headline: Named | None, causes: Collection[str], places: Iterable[str]) -> bool:
    """Return whether the headline names an acceptable cause at a place that a glob matches."""
    if headline is None or headline.rule not in causes:
        return False
    return any(fnmatchcase(headline.where, glob) for glob in places)


def is_better(faulty: Sequence[float], twin: Sequence[float]) -> bool:
    """Return whether the twin is really better, over the seeds; an infinite metric is worst."""
    if not all(math.isfinite(value) for value in twin):
        return False
    ours, theirs = statistics.fmean(twin), statistics.fmean(faulty)
    return ours < theirs and ours <= BETTER_SHARE * theirs  # two runs without an error are equal


def quantile(values: Sequence[int], q: float) -> float:
    """Return the q-quantile by linear interpolation; NaN without values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def scores(pairs: Sequence[Pair]) -> Scores:
    """Return the figures of `pairs`. Steps to the first alert count the flagged runs only."""
    placed = [pair for pair in pairs if pair.place is not None]
    delays = [pair.steps_to_alert for pair in pairs if pair.steps_to_alert is not None]
    return Scores(
        recall=_rate(pair.flagged for pair in pairs),
        open_at_end=_rate(pair.open_at_end for pair in pairs),
        top1=_rate(pair.top1 for pair in pairs),
        top3=_rate(pair.top3 for pair in pairs),
        place=_rate(bool(pair.place) for pair in placed),
        fix=_rate(pair.fix == PROVEN for pair in pairs if pair.fix is not None),
        alert_median=quantile(delays, 0.5),
        alert_p90=quantile(delays, 0.9),
        findings_mean=statistics.fmean(pair.findings for pair in pairs) if pairs else math.nan,
    )


def _rate(hits: Iterable[bool]) -> Rate:
    judged = [*hits]
    return Rate(sum(judged), len(judged))
