"""Which curve proves a finding, and where to find it."""

from __future__ import annotations

from collections.abc import Sequence

from trainvitals.api.schema import Diagnosis, Finding
from trainvitals.diagnosis.history import History, Series
from trainvitals.wire import Stat, Stream

CurveKey = tuple[str, str, str]
"""Stream, statistic and place, as a finding names them."""


def key_of(finding: Finding) -> CurveKey:
    """Return what `card`'s `curves` are keyed by."""
    return (finding.stream, finding.statistic, finding.where)


def source_of(finding: Finding, places: Sequence[str]) -> tuple[str, str] | None:
    """Return (statistic, place) of the curve among the `places` of its stream; None without one.

    A finding in the stream of scalars names the scalar as its statistic. One about a layer may
    name the module where the stream has its parameters.
    """
    if not finding.stream or not finding.statistic:
        return None
    if finding.stream == Stream.SCALAR:
        return (Stat.VALUE, finding.statistic) if finding.statistic in places else None
    for name in (finding.where, f"{finding.where}.weight", f"{finding.where}.bias"):
        if name in places:
            return (finding.statistic, name)
    return None


def curves_of(history: History, diagnosis: Diagnosis) -> dict[CurveKey, Series]:
    """Return the curve of the diagnosis' headline, as far as the history has it."""
    finding = diagnosis.headline
    if finding is None or finding.stream not in tuple(Stream):
        return {}
    stream = Stream(finding.stream)
    source = source_of(finding, [place.name for place in history.places(stream)])
    if source is None or source[0] not in tuple(Stat):
        return {}
    return {key_of(finding): history.series(stream, Stat(source[0]), source[1])}
