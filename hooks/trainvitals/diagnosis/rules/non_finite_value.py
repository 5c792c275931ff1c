"""TV901: NaN or infinity, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.finding import Finding, Severity
from trainvitals.diagnosis.history import History, Steps
from trainvitals.diagnosis.places import both_ends
from trainvitals.diagnosis.rule import Rule, Stage, threshold
from trainvitals.diagnosis.signals import Floats
from trainvitals.wire import Place, Scalar, Stat, Stream


class First(NamedTuple):
    """The first non-finite tensor of a stream."""

    step: int
    place: Place
    row: int
    entries: float


@dataclass(frozen=True)
class NonFiniteValue(Rule):
    """NaN or infinity appeared, in a value, a gradient or a weight.

    ## What it detects
    The first step at which the loss, a gradient, a parameter or a module's output held NaN or
    infinity, and which of them was first: a module's output (the forward pass), the loss alone
    (the loss function), or a gradient while outputs and loss were finite (the backward pass).
    Gradients that overflow while a gradient scaler looks for its scale are left out, and so are
    outputs that hold infinities while loss and gradients stay finite: masks do that.
    ## Why it matters
    Once a weight is NaN every later value is, and nothing heals it. Continuing costs money.
    ## Evidence
    The step, the module, how many entries, and the largest value in the last finite step.
    ## What to do
    - Keep logarithms, divisions and roots away from 0: `x.clamp_min(eps).log()`,
      `torch.where` does not help, since its gradient still sees the other branch.
    - Use losses that take logits (`BCEWithLogitsLoss`, `CrossEntropyLoss`).
    - If values grew for some steps before, lower the learning rate and clip gradients.
    - `torch.autograd.set_detect_anomaly(True)` for one step names the operation.
    ## When it is wrong
    One bad batch whose step was skipped: resolved after 50 finite steps.
    ## References
    PyTorch documentation, "Autograd mechanics" and "Anomaly detection"; Micikevicius et al.,
    "Mixed Precision Training", 2018, arXiv:1710.03740.
    """

    code: ClassVar[str] = "TV901"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    fix: ClassVar[str] = "x.clamp_min(1e-8).log()"
    refuted_by: ClassVar[str] = "All parameters are finite, and so is the loss of the next steps."

    finite_steps: int = threshold(50, "Finite steps in a row after which it is over.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first module or parameter."""
        loss = self._bad_steps(history, Scalar.NONFINITE_LOSS)
        gradients = self._bad_steps(history, Scalar.NONFINITE_GRADIENTS)
        if self._scaler_at_work(history):
            gradients = gradients[:0]
        weight = self._first(history, Stream.WEIGHT)
        serious = [int(steps[0]) for steps in (loss, gradients) if len(steps)]
        serious += [weight.step] if weight else []
        if not serious:
            return
        newest = max([int(s[-1]) for s in (loss, gradients) if len(s)], default=-1)
        if history.last_step - newest > self.finite_steps and not self._weights_are_bad(history):
            return
        step = min(serious)
        output = self._first(history, Stream.ACTIVATION, until=step)
        gradient = self._first(history, Stream.GRADIENT)
        began, where, stream = self._origin(step, loss, weight, output, gradient)
        place = where.place.name if where else ""
        # What was non-finite in the forward pass of step t was finite in that of t − 1.
        largest = self._last_finite_max(history, where, stream) if where else float("nan")
        yield self.finding(
            severity=Severity.ERROR,
            where=place,
            since_step=min(step, where.step) if where else step,
            summary=f"Not finite since step {step}: first {began}"
            + (f" {place}" if place else "")
            + (f", whose largest value was {largest:.3g} before." if np.isfinite(largest) else "."),
            evidence={
                "first_step": float(step),
                "began": began,
                "nonfinite_entries": where.entries if where else float("nan"),
                "last_finite_max": largest,
                "nonfinite_max": 0.0,
                "healthy_range": "0 entries",
            },
            stream=stream if where else Stream.SCALAR,
            statistic=Stat.NONFINITE if where else Scalar.NONFINITE_LOSS,
        )

    def _origin(
        self,
        step: int,
        loss: Steps,
        weight: First | None,
        output: First | None,
        gradient: First | None,
    ) -> tuple[str, First | None, Stream]:
        """Return what was first (in words), where, and its stream, at the first bad step."""
        if weight is not None and weight.step <= step:
            return "in the weights of", weight, Stream.WEIGHT
        if output is not None:
            return "in the forward pass, in the output of", output, Stream.ACTIVATION
        if len(loss) and int(loss[0]) <= step:
            return "in the loss function; all outputs were finite", None, Stream.SCALAR
        if gradient is not None:
            return "in the backward pass, in the gradient of", gradient, Stream.GRADIENT
        return "in the backward pass", None, Stream.SCALAR

    def _bad_steps(self, history: History, name: Scalar) -> Steps:
        series = history.scalar(name)
        bad = series.steps[series.values > 0]
        if name is Scalar.NONFINITE_LOSS:
            loss = history.scalar(Scalar.LOSS)  # an infinite loss is kept as it is
            bad = np.union1d(bad, loss.steps[np.isinf(loss.values)])
        return bad

    def _scaler_at_work(self, history: History) -> bool:
        """Whether a gradient scaler skips the steps whose gradients overflow, as it should."""
        return len(history.scalar(Scalar.LOSS_SCALE)) > 0

    def _first(self, history: History, stream: Stream, until: int | None = None) -> First | None:
        """Return the first frame's first non-finite place, in the order of depth."""
        places = history.places(stream)
        seen = both_ends(history, stream, Stat.NONFINITE, range(len(places)))
        bad = seen.values > 0
        if until is not None:
            bad &= (seen.steps <= until)[:, None]
            # Infinities there while all was well (masks) are no news at the step it broke.
            before = seen.steps < until
            if before.any():
                bad &= ~bad[before].any(axis=0)
        frames = np.flatnonzero(bad.any(axis=1))
        if not len(frames):
            return None
        at = int(frames[0])
        order = sorted(np.flatnonzero(bad[at]), key=lambda i: (places[i].depth, i))
        # The backward pass goes from the last module to the first.
        row = int(order[-1] if stream is Stream.GRADIENT else order[0])
        return First(int(seen.steps[at]), places[row], row, float(seen.values[at, row]))

    def _weights_are_bad(self, history: History) -> bool:
        values = history.values(Stream.WEIGHT, Stat.NONFINITE)
        return len(values) > 0 and bool((values[-1] > 0).any())

    def _last_finite_max(self, history: History, first: First, stream: Stream) -> float:
        steps = history.steps(stream)
        at = int(np.searchsorted(steps, first.step)) - 1
        if at < 0:
            return float("nan")
        low, high = (history.values(stream, s)[at, first.row] for s in (Stat.MIN, Stat.MAX))
        return float(max(abs(low), abs(high)))

    @staticmethod
    def sick() -> History:
        """Return a log of zero in a module at step 20."""
        bad = np.r_[np.zeros(20), 3.0]
        return _run(loss=bad > 0, gradients=2 * (bad > 0), output=bad)

    @staticmethod
    def healthy() -> History:
        """Return scores masked with −inf: by design, and loss and gradients are finite."""
        return _run(loss=np.zeros(21), gradients=np.zeros(21), output=np.full(21, 6.0))


def _run(
    loss: Floats,
    gradients: Floats,
    output: Floats,
) -> History:
    places = [Place("0", kind="Linear", depth=0), Place("1", kind="Log", depth=1)]
    columns: dict[str, dict[Stat, Column]] = {
        "0": {Stat.NONFINITE: 0.0, Stat.MIN: -2.0, Stat.MAX: 2.0},
        "1": {Stat.NONFINITE: output, Stat.MIN: -9.0, Stat.MAX: 1.0},
    }
    return (
        Example(len(output))
        .scalars(
            loss=np.where(loss > 0, np.nan, 1.0), nonfinite_loss=loss, nonfinite_gradients=gradients
        )
        .stream(Stream.ACTIVATION, places, columns)
        .history
    )
