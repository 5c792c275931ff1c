"""The curve that shows a finding, and the limit that can be drawn in the same chart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainvitals.api.schema import Finding
from trainvitals.api.wording import row
from trainvitals.wire import Stat, Stream


@dataclass(frozen=True)
class Wanted:
    """The series that shows a finding."""

    stream: str
    statistic: str
    place: str


def wanted(finding: Finding) -> Wanted | None:
    """Return the curve that shows the finding; None for a finding without a curve."""
    if not finding.stream or not finding.statistic:
        return None
    if finding.stream == Stream.SCALAR:
        # The API stores a scalar's name as place; findings store it as statistic.
        return Wanted(finding.stream, Stat.VALUE, finding.statistic)
    return Wanted(finding.stream, finding.statistic, finding.where) if finding.where else None


def threshold(finding: Finding) -> tuple[float, str] | None:
    """Return the limit of the quantity that the curve shows, and its text.

    Many limits apply to another quantity, such as a ratio; a line at that height would be wrong.
    """
    for evidence in finding.evidence:
        if evidence.limit is None or not math.isfinite(evidence.limit):
            continue
        if evidence.statistic and evidence.statistic == finding.statistic:
            return evidence.limit, row(evidence).limit
    return None
