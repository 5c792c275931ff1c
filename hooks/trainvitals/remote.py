"""Read a run's diagnosis from a collector, for the command line and the demo.

Comes in: a `Client` and the run's id. Goes out: a `Diagnosis`, and the curve of its headline.
Start at `diagnosis_of`.
"""

from __future__ import annotations

import math
import time
from typing import Final

from trainvitals.api.client import Client, Refused, Unreachable
from trainvitals.api.schema import Curve, Diagnosis, RunDetail
from trainvitals.diagnosis.history import Series
from trainvitals.report.curves import CurveKey, key_of, source_of
from trainvitals.report.of_run import diagnosis_of_run, drawn_curve

ENDED: Final = ("finished", "failed", "stopped", "lost")
QUIET_S: Final = 2.5
"""The diagnosis of an ended run is final if it has not changed for this time: the collector
diagnoses once per second."""


def diagnosis_of(client: Client, run: str) -> Diagnosis | None:
    """Return the collector's latest diagnosis of `run`; None before the first."""
    about = client.run(run)
    if about.health is None and about.state not in ("failed", "lost"):
        return None
    findings = client.findings(run).findings
    return diagnosis_of_run(about, findings, client.layout(run).streams)


def curves_of(client: Client, diagnosis: Diagnosis, points: int = 200) -> dict[CurveKey, Series]:
    """Return the curve of the headline's evidence; empty if the collector has none."""
    finding = diagnosis.headline
    if finding is None or not finding.stream:
        return {}
    layout = client.layout(diagnosis.run).of(finding.stream)
    source = source_of(finding, [place.name for place in layout.places] if layout else [])
    if source is None:
        return {}
    try:
        found = client.series(
            diagnosis.run, finding.stream, source[0], [source[1]], points=points
        ).series
    except Refused:
        return {}  # the card is complete without the curve
    return {key_of(finding): _series(found[0])} if found else {}


def settled(client: Client, run: str, timeout_s: float) -> bool:
    """Wait until the run has ended and its diagnosis is final; return False after the timeout."""
    deadline = time.monotonic() + timeout_s
    before: RunDetail | None = None
    since = time.monotonic()
    while time.monotonic() < deadline:
        try:
            now = client.run(run)
        except (Refused, Unreachable):
            now = None
        if now != before:
            before, since = now, time.monotonic()
        elif now and _ended(now) and time.monotonic() - since >= QUIET_S:
            return True
        time.sleep(0.2)
    return False


def _ended(run: RunDetail) -> bool:
    return run.state in ENDED and run.health is not None


def _series(curve: Curve) -> Series:
    low, mean, high = (
        [math.nan if v is None else v for v in values]
        for values in (curve.min, curve.mean, curve.max)
    )
    return drawn_curve(curve.step, low, mean, high, curve.nonfinite)
