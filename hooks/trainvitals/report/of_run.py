"""Make the `Diagnosis` and the curves of a report from the collector's data of a run.

Comes in: responses of the API, or rows of the collector's store.
Goes out: the inputs of `card` and `as_html`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from trainvitals.api.account import overhead_note, prevented
from trainvitals.api.schema import Checkup, Diagnosis, Finding, Layout, RunDetail
from trainvitals.diagnosis.causes import headline_of
from trainvitals.diagnosis.history import Series
from trainvitals.wire import Stream


def diagnosis_of_run(
    about: RunDetail,
    findings: Sequence[Finding],
    layouts: Iterable[Layout],
    checkup: Checkup | None = None,
) -> Diagnosis:
    """Return the newest diagnosis of a run; its health is 1 before the first diagnosis.

    `findings` are ranked, `layouts` is the newest layout of each stream, `checkup` the state before
    the training.
    """
    watched = (p.name for s in layouts if s.stream != Stream.SCALAR for p in s.places)
    return Diagnosis(
        run=about.id,
        step=about.finished_step,
        verdict=about.verdict,
        headline=headline_of(findings),
        findings=tuple(findings),
        health=1.0 if about.health is None else about.health,
        blind=about.blind,
        error=about.error,
        watched=tuple(dict.fromkeys(watched)),
        not_watched=about.not_watched,
        overhead=about.overhead,
        overhead_note=overhead_note(about.events),
        prevented=prevented(about.events),
        missing=about.completeness.reason if about.completeness.complete is False else "",
        checkup=checkup,
    )


def drawn_curve(
    steps: npt.ArrayLike,
    minimum: npt.ArrayLike,
    mean: npt.ArrayLike,
    maximum: npt.ArrayLike,
    nonfinite: npt.ArrayLike,
) -> Series:
    """Return a curve of buckets with the extreme of each, so that a spike of one step is visible.

    All have the shape (buckets,). NaN is a bucket without a finite value; a bucket with an infinite
    value is ∞.
    """
    low, middle, high = (np.asarray(v, np.float32) for v in (minimum, mean, maximum))
    values = np.where(middle - low > high - middle, low, high)
    values[np.asarray(nonfinite) > 0] = np.inf
    return Series(np.asarray(steps, np.int64), values)
