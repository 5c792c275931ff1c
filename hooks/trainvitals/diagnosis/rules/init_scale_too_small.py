"""TV303: the initial weights are too small, so the signal vanishes in the forward pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import HE_INITIALISATION
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, median
from trainvitals.wire import Place, Stat, Stream

SQUASHING = ("sigmoid", "tanh", "softmax")


@dataclass(frozen=True)
class InitScaleTooSmall(Rule):
    """The differences between samples vanish in the forward pass: deep layers ignore the input.

    ## What it detects
    In the first steps, the standard deviation across samples (S) of the deepest hidden layer is
    below a thousandth of the first layer's, or below 5 % of √(S² + M²), where M is the standard
    deviation of the units' means; the biases then dominate the output. It is a note at first, and
    a warning if it persists after 100 steps and the loss has not fallen. Networks with mostly
    sigmoid, tanh or softmax are left to `vanishing_gradient`: there the nonlinearity is the cause.
    ## Why it matters
    The total spread of a layer's output can look normal while all of it comes from the biases.
    The network then returns the same output for every sample, and the gradients of its weights
    are as small as the remaining signal.
    ## Evidence
    S of the deepest layer relative to the first, the sample sensitivity S/√(S² + M²), the layer.
    ## What to do
    - Initialise with He before ReLU (`kaiming_normal_`): PyTorch's default for Linear shrinks the
      signal by a factor of √(1/6) per ReLU layer.
    - Add normalisation between the layers, or residual connections around them.
    - Standardise the inputs.
    ## When it is wrong
    Batches whose samples hardly differ; networks that are initialised as the identity on purpose.
    ## References
    Schoenholz et al., "Deep Information Propagation", 2017, arXiv:1611.01232; He et al., "Delving
    Deep into Rectifiers", 2015, arXiv:1502.01852.
    """

    code: ClassVar[str] = "TV303"
    stage: ClassVar[Stage] = Stage.INITIALISATION
    explains: ClassVar[frozenset[str]] = frozenset({"TV101", "TV501", "TV502", "TV602", "TV701"})
    needs: ClassVar[tuple[Need, ...]] = (Stream.ACTIVATION,)
    fix: ClassVar[str] = HE_INITIALISATION
    refuted_by: ClassVar[str] = "The output differs clearly between two different samples."

    signal_ratio_min: float = threshold(
        1e-3, "S of the deepest hidden layer relative to the first; fires below this value."
    )
    sensitivity_min: float = threshold(
        0.05, "S/√(S² + M²) of the deepest hidden layer; fires below this value."
    )
    layers_min: int = threshold(4, "Minimum number of watched hidden layers.")
    steps_min: int = threshold(100, "Steps after which a persistent finding becomes a warning.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first layer below a limit."""
        places = history.places(Stream.ACTIVATION)
        rows = [row for _, row in sorted((p.depth, i) for i, p in enumerate(places) if _hidden(p))]
        steps = history.steps(Stream.ACTIVATION)
        kinds = Counter(places[row].nonlinearity for row in rows if places[row].nonlinearity)
        squashing = sum(kinds[k] for k in SQUASHING)
        if len(rows) < self.layers_min or not len(steps) or steps[0] > 3:
            return
        if squashing * 2 > sum(kinds.values()):
            return
        # Only the first captured step: later ones are trained.
        signal, sensitivity = self._propagation(history, rows, first=1)
        alive = np.flatnonzero(np.isfinite(signal) & (signal > 0))
        if len(alive) < self.layers_min:
            return
        ratio = signal[alive] / signal[alive[0]]
        blind = (ratio < self.signal_ratio_min) | (sensitivity[alive] < self.sensitivity_min)
        if not blind[-1]:
            return
        course = Course(history)
        late_signal, late_sensitivity = self._propagation(history, rows, last=5)
        still = late_signal[alive[-1]] < self.signal_ratio_min * late_signal[alive[0]] or (
            late_sensitivity[alive[-1]] < self.sensitivity_min
        )
        lasting = still and steps[-1] >= self.steps_min - 1 and not course.learned()
        place = places[rows[int(alive[int(np.argmax(blind))])]]
        yield self.finding(
            severity=Severity.WARNING if lasting else Severity.INFO,
            where=place.name,
            since_step=int(steps[0]),
            summary=(
                "Initial weights too small: at the start, the standard deviation across samples of "
                f"the last hidden layer is {number(ratio[-1])} times the first layer's; from "
                f"{place.name} on, the outputs hardly depend on the input."
            ),
            evidence=self._evidence(float(ratio[-1]), float(sensitivity[alive[-1]])),
            confidence=0.8,
            stream=Stream.ACTIVATION,
            statistic=Stat.SAMPLE_STD,
        )

    def _evidence(self, ratio: float, sensitivity: float) -> tuple[Evidence, ...]:
        """Return both quantities, each with its limit if it is below the limit."""
        small, blind = ratio < self.signal_ratio_min, sensitivity < self.sensitivity_min
        return (
            Evidence(
                quantity="standard deviation across samples, last hidden layer relative to first",
                seen=ratio,
                limit=self.signal_ratio_min if small else None,
                direction="below" if small else "",
                healthy=(0.1, 10.0) if small else None,
            ),
            Evidence(
                quantity="sample sensitivity S/√(S² + M²) of the last hidden layer",
                seen=sensitivity,
                limit=self.sensitivity_min if blind else None,
                direction="below" if blind else "",
                healthy=(0.2, None) if blind else None,
            ),
        )

    def _propagation(
        self, history: History, rows: list[int], *, first: int = 0, last: int = 0
    ) -> tuple[Floats, Floats]:
        """Return (S, S/√(S² + M²)) of each row."""
        s, m = (
            median(window(history, Stream.ACTIVATION, stat, rows, first=first, last=last).values)
            for stat in (Stat.SAMPLE_STD, Stat.UNIT_MEAN_STD)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            # M is not defined for a single unit; its sensitivity counts as 1.
            return s, np.where(np.isnan(m), 1.0, s / np.hypot(s, m))

    @staticmethod
    def sick() -> History:
        """Return twenty ReLU layers with PyTorch's default initialisation that do not learn."""
        return _stack(math.sqrt(1 / 6), [2.3] * 100)

    @staticmethod
    def healthy() -> History:
        """Return twenty layers that each keep 90 % of the signal."""
        return _stack(0.9, list(np.linspace(2.3, 0.5, 60)))


def _hidden(place: Place) -> bool:
    kinds = ("Softmax", "LogSoftmax", "Embedding", "MultiheadAttention")
    return "output" not in place.flags and place.kind not in kinds


def _stack(gain: float, loss: list[float]) -> History:
    places = [
        Place(f"{i}", kind="ReLU", depth=i, nonlinearity="relu", module=str(i)) for i in range(20)
    ]
    columns = {
        p.name: {Stat.SAMPLE_STD: gain**i, Stat.UNIT_MEAN_STD: 0.05} for i, p in enumerate(places)
    }
    return Example(len(loss)).scalars(loss=loss).stream(Stream.ACTIVATION, places, columns).history
