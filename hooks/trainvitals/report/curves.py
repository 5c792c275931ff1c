"""Find the curves of a report: that of a finding's evidence, and the course of the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trainvitals.api.schema import Diagnosis, Finding
from trainvitals.diagnosis.history import History, Series
from trainvitals.wire import Stat, Stream

COURSE = ("loss", "learning_rate", "gradient_norm")
"""Base names of the scalars that a page draws; `loss/validation` belongs to `loss`."""
CurveKey = tuple[str, str, str]
"""Stream, statistic and place of a finding."""


def key_of(finding: Finding) -> CurveKey:
    """Return the key of a finding's curve in `card`'s `curves`."""
    return (finding.stream, finding.statistic, finding.where)


def source_of(finding: Finding, places: Sequence[str]) -> tuple[str, str] | None:
    """Return (statistic, place) of the curve among the `places` of its stream; None if missing.

    In a finding about a scalar, the statistic is the scalar's name. In a finding about a layer,
    the place may be a module, while the rows of the stream are its parameters.
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
    """Return the curve of the diagnosis' headline; empty if the history does not contain it."""
    finding = diagnosis.headline
    if finding is None or finding.stream not in tuple(Stream):
        return {}
    stream = Stream(finding.stream)
    source = source_of(finding, [place.name for place in history.places(stream)])
    if source is None or source[0] not in tuple(Stat):
        return {}
    return {key_of(finding): history.series(stream, Stat(source[0]), source[1])}


def course_names(names: Iterable[str]) -> list[str]:
    """Return the scalars among `names` that a page draws."""
    return [name for name in names if name.partition("/")[0] in COURSE]


def page_curves(history: History, diagnosis: Diagnosis) -> dict[CurveKey, Series]:
    """Return the curves of `as_html`: the course of the training, and the headline's evidence."""
    course = {
        (Stream.SCALAR.value, name, ""): history.scalar(name)
        for name in course_names(history.scalar_names())
    }
    return {**course, **curves_of(history, diagnosis)}
