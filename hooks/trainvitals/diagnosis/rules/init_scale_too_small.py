"""TV303: the signal dies out on its way forward, because the weights start too small."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, median
from trainvitals.wire import Place, Stat, Stream

SQUASHING = ("sigmoid", "tanh", "softmax")


@dataclass(frozen=True)
class InitScaleTooSmall(Rule):
    """What differs between samples dies out in the layers: the deep ones see the same input always.

    ## What it detects
    In the first steps the standard deviation across samples (S) of the deepest hidden layer is
    below a thousandth of the first one's, or below 5 % of √(S² + M²), where M is what the units'
    means differ by: then the biases have taken over. A note at first; a warning when it is still
    so after 100 steps and the loss has not fallen. Stacks of sigmoids and tanhs are left
    to `vanishing_gradient`: there the nonlinearity is to blame.
    ## Why it matters
    The total spread of a layer's outputs can look healthy while all of it comes from the biases;
    then the network says the same for every sample, and the gradient of its weights is as small
    as the signal that is left.
    ## Evidence
    S of the deepest layer over S of the first, the input-blindness S/√(S² + M²), and the layer.
    ## What to do
    - Initialise with He before ReLU (`kaiming_normal_`); PyTorch's default for Linear shrinks a
      ReLU stack by √(1/6) a layer.
    - Put normalisation between layers, or residual connections around them.
    - Standardise the inputs.
    ## When it is wrong
    Inputs that do hardly differ in this batch; networks that are meant to start as the identity.
    ## References
    Schoenholz et al., "Deep Information Propagation", 2017, arXiv:1611.01232; He et al., "Delving
    Deep into Rectifiers", 2015, arXiv:1502.01852.
    """

    code: ClassVar[str] = "TV303"
    stage: ClassVar[Stage] = Stage.INITIALISATION
    explains: ClassVar[frozenset[str]] = frozenset({"TV101", "TV501", "TV502", "TV602", "TV701"})
    needs: ClassVar[tuple[Need, ...]] = (Stream.ACTIVATION,)
    fix: ClassVar[str] = (
        "for m in model.modules():\n"
        "    if isinstance(m, (nn.Linear, nn.Conv2d)):\n"
        "        nn.init.kaiming_normal_(m.weight, nonlinearity='relu')"
    )
    refuted_by: ClassVar[str] = "Outputs that differ clearly between two unlike samples."

    signal_ratio_min: float = threshold(1e-3, "S of the deepest hidden layer over the first's.")
    sensitivity_min: float = threshold(0.05, "S/√(S² + M²) of the deepest hidden layer.")
    layers_min: int = threshold(4, "Watched hidden layers there must be.")
    steps_min: int = threshold(100, "Steps after which it is a warning, if it is still so.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first layer that is blind."""
        places = history.places(Stream.ACTIVATION)
        rows = [row for _, row in sorted((p.depth, i) for i, p in enumerate(places) if _hidden(p))]
        steps = history.steps(Stream.ACTIVATION)
        kinds = Counter(places[row].nonlinearity for row in rows if places[row].nonlinearity)
        squashing = sum(kinds[k] for k in SQUASHING)
        if len(rows) < self.layers_min or not len(steps) or steps[0] > 3:
            return
        if squashing * 2 > sum(kinds.values()):
            return
        signal, sensitivity = self._propagation(history, rows, first=1)  # later ones are trained
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
                f"At the start the standard deviation across samples falls to {ratio[-1]:.2g} of "
                f"that of the first layer by the last hidden layer; from {place.name} on the "
                "outputs hardly depend on the input."
            ),
            evidence=self._evidence(float(ratio[-1]), float(sensitivity[alive[-1]])),
            confidence=0.8,
            stream=Stream.ACTIVATION,
            statistic=Stat.SAMPLE_STD,
        )

    def _evidence(self, ratio: float, sensitivity: float) -> tuple[Evidence, ...]:
        """Return both quantities; a limit is shown only with the one that passed it."""
        small, blind = ratio < self.signal_ratio_min, sensitivity < self.sensitivity_min
        return (
            Evidence(
                quantity="signal, last hidden layer relative to first",
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
            # M is unknown for a single unit: then nothing is known of blindness.
            return s, np.where(np.isnan(m), 1.0, s / np.hypot(s, m))

    @staticmethod
    def sick() -> History:
        """Return twenty ReLU layers with PyTorch's default initialisation that do not learn."""
        return _stack(math.sqrt(1 / 6), [2.3] * 100)

    @staticmethod
    def healthy() -> History:
        """Return twenty layers that keep 90 % of the signal each."""
        return _stack(0.9, list(np.linspace(2.3, 0.5, 60)))


def _hidden(place: Place) -> bool:
    return not {"output", "zero_init_branch"} & set(place.flags) and (
        place.kind not in ("Softmax", "LogSoftmax", "Embedding", "MultiheadAttention")
    )


def _stack(gain: float, loss: list[float]) -> History:
    places = [
        Place(f"{i}", kind="ReLU", depth=i, nonlinearity="relu", module=str(i)) for i in range(20)
    ]
    columns = {
        p.name: {Stat.SAMPLE_STD: gain**i, Stat.UNIT_MEAN_STD: 0.05} for i, p in enumerate(places)
    }
    return Example(len(loss)).scalars(loss=loss).stream(Stream.ACTIVATION, places, columns).history
