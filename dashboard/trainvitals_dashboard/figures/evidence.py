"""Which curve a finding points at, and the limit that can be drawn on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainvitals.api.schema import Finding
from trainvitals.api.wording import row
from trainvitals.wire import Stat, Stream


@dataclass(frozen=True)
class Wanted:
    """The series a finding points at."""

    stream: str
    statistic: str
    place: str


def wanted(finding: Finding) -> Wanted | None:
    """Return which curve shows the finding; None for one of the whole run without a curve."""
    if not finding.stream or not finding.statistic:
        return None
    if finding.stream == Stream.SCALAR:
        # A scalar's name is a place; findings name it where others name the statistic.
        return Wanted(finding.stream, Stat.VALUE, finding.statistic)
    return Wanted(finding.stream, finding.statistic, finding.where) if finding.where else None


def threshold(finding: Finding) -> tuple[float, str] | None:
    """Return the limit of the very quantity the curve shows, and its words.

    Many limits are of another quantity (a ratio, a growth): a line at their height would be wrong.
    """
    for evidence in finding.evidence:
        if evidence.limit is None or not math.isfinite(evidence.limit):
            continue
        if evidence.statistic and evidence.statistic == finding.statistic:
            return evidence.limit, row(evidence).limit
    return None
