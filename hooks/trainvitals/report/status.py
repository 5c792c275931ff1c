"""Format the state of a running training as one line.

Comes in: a `Status`. Goes out: text without a line break, of at most the given width.
"""

from __future__ import annotations

from typing import NamedTuple

from rich.cells import cell_len

from trainvitals.api.schema import Diagnosis, Verdict
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.history import History
from trainvitals.report.text import at_place, clean
from trainvitals.wire import Scalar

WIDTH_MIN = 20
VERDICT = {Verdict.TOO_EARLY: "too early to say"}
"""Words of verdicts whose value is not a word."""


class Status(NamedTuple):
    """The newest values of a running training."""

    step: int
    diagnosis: Diagnosis
    """The newest diagnosis; it may cover fewer steps."""
    loss: float | None = None
    """The newest loss; NaN or ±Inf if it diverged, None without one."""
    step_rate: float | None = None
    """Steps per second since the status before; None before the second."""
    overhead: float | None = None
    """Own CPU time as a share of the training time."""

    @property
    def key(self) -> tuple[str, str]:
        """The verdict and the headline's code; a change of either is a new verdict."""
        headline = self.diagnosis.headline
        return (self.diagnosis.verdict.value, headline.code if headline else "")


def status_of(history: History, diagnosis: Diagnosis, step_rate: float | None) -> Status:
    """Return the status at the history's last step, with the newest `diagnosis`."""
    overhead = _newest(history, Scalar.OVERHEAD)
    return Status(history.last_step, diagnosis, _loss(history), step_rate, overhead)


def status_line(status: Status, width: int = 100) -> str:
    """Return step, loss, step rate, own cost and verdict, cut after `width` terminal cells."""
    diagnosis = status.diagnosis
    parts = [f"step {status.step:,}"]
    if status.loss is not None:
        parts.append(f"loss {number(status.loss)}")
    if status.step_rate is not None:
        parts.append(f"{number(status.step_rate)} steps/s")
    if status.overhead is not None:
        parts.append(f"own cost {percent(status.overhead)}")
    parts.append(_verdict(diagnosis))
    return _cut(f"trainvitals: {' · '.join(parts)}", max(WIDTH_MIN, width))


def _verdict(diagnosis: Diagnosis) -> str:
    word = VERDICT.get(diagnosis.verdict, diagnosis.verdict.value)
    headline = diagnosis.headline
    if headline is None:
        return word
    return f"{word}: {clean(headline.code)} {clean(headline.rule)}{at_place(headline.where)}"


def _loss(history: History) -> float | None:
    diverged = history.scalar(Scalar.NONFINITE_LOSS)
    loss = history.scalar(Scalar.LOSS)
    newest = int(loss.steps[-1]) if len(loss) else -1
    if len(diverged) and diverged.values[-1] > 0 and int(diverged.steps[-1]) > newest:
        return float("nan")
    return float(loss.values[-1]) if len(loss) else None


def _newest(history: History, name: str) -> float | None:
    series = history.scalar(name)
    return float(series.values[-1]) if len(series) else None


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        text = text[:-1]
    return f"{text}…"
