"""What a finding's evidence says: which curve to draw, against which limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainvitals.wire import Stat, Stream
from trainvitals_dashboard.answers import Finding
from trainvitals_dashboard.wording import number, words

LIMITS = {
    "max": "at most",
    "min": "at least",
    "error": "error from",
    "warning": "warning from",
    "early": "early on at most",
    "flat": "with a flat loss at least",
    "usual": "usually",
}
"""Last word of a limit's name → how to say it. The rest of the name is the quantity's."""


@dataclass(frozen=True)
class Wanted:
    """The series a finding points at."""

    stream: str
    statistic: str
    place: str


@dataclass(frozen=True)
class Row:
    """One quantity of the evidence, as text: what was seen, and the limit."""

    quantity: str
    seen: str
    limit: str


def wanted(finding: Finding) -> Wanted | None:
    """Return which curve shows the finding; None for one of the whole run without a curve."""
    if not finding.stream or not finding.statistic:
        return None
    if finding.stream == Stream.SCALAR:
        # A scalar's name is a place; findings name it where others name the statistic.
        return Wanted(finding.stream, Stat.VALUE, finding.statistic)
    return Wanted(finding.stream, finding.statistic, finding.where) if finding.where else None


def threshold(finding: Finding) -> tuple[float, str] | None:
    """Return the limit of the very quantity the curve shows, and its name.

    Many limits are of another quantity (a ratio, a growth): a line at their height would say
    something that is not so.
    """
    shown = {finding.statistic, f"{finding.stream}_{finding.statistic}"}
    for name, value in finding.evidence.items():
        quantity, kind = _split(name)
        if kind and quantity in shown and isinstance(value, float | int) and math.isfinite(value):
            return float(value), f"{LIMITS[kind]} {number(float(value))}"
    return None


def rows(finding: Finding) -> list[Row]:
    """Return the evidence: each quantity once, with its limit beside it. Texts are not escaped."""
    limits: dict[str, list[str]] = {}
    for name, value in finding.evidence.items():
        quantity, kind = _split(name)
        if kind:
            limits.setdefault(quantity, []).append(f"{LIMITS[kind]} {_text(value)}")
    made = []
    for name, value in finding.evidence.items():
        if name == "healthy_range" or _split(name)[1]:
            continue
        limit = limits.pop(name, []) or _of_kin(name, limits)
        made.append(Row(words(name), _text(value), ", ".join(limit)))
    made += [Row(words(name), "", ", ".join(limit)) for name, limit in limits.items()]
    healthy = finding.evidence.get("healthy_range")
    if healthy is not None:
        made.append(Row("healthy", "", _text(healthy)))
    return made


def _of_kin(name: str, limits: dict[str, list[str]]) -> list[str]:
    # first_update_ratio is held against update_ratio_max.
    kin = next((limit for limit in limits if name.endswith(f"_{limit}")), None)
    return limits.pop(kin) if kin else []


def _split(name: str) -> tuple[str, str]:
    quantity, _, kind = name.rpartition("_")
    return (quantity, kind) if quantity and kind in LIMITS else (name, "")


def _text(value: float | str | None) -> str:
    return value if isinstance(value, str) else number(value)
