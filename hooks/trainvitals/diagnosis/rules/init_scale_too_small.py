"""TV303: the initial weights are too small, so the signal vanishes in the forward pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import INITIALISE, Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import START, Gain, now_of, weight_gains
from trainvitals.diagnosis.lost_signals import forgetting, tiny_vectors, zero_gain
from trainvitals.diagnosis.places import called, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, median, middle
from trainvitals.wire import Place, Stat, Stream

SQUASHING = ("sigmoid", "tanh", "softmax")


RESET_MAX = 3
"""Layers up to which PyTorch's own initialisation keeps enough of the signal."""
KNOWN = frozenset(
    {"Linear", "Conv1d", "Conv2d", "Conv3d", "Dropout", "Flatten", "Identity", "MaxPool1d"}
    | {"MaxPool2d", "AvgPool1d", "AvgPool2d", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d"}
)
"""Kinds of modules that a model needs although they reduce the signal."""


@dataclass(frozen=True)
class InitScaleTooSmall(Rule):
    """The differences between samples vanish in the forward pass: deep layers ignore the input.

    ## What it detects
    In the first steps, the standard deviation across samples (S) of the deepest hidden layer is
    below a thousandth of the first layer's, or below 5 % of √(S² + M²), where M is the standard
    deviation of the units' means; the biases then dominate the output. It is a note at first, and
    a warning if it persists after 100 steps and the loss has not fallen. Networks with mostly
    sigmoid, tanh or softmax are left to `vanishing_gradient`: there the nonlinearity is the cause.
    It is a warning at once if S of the deepest layer is below a thousandth of the first and a
    hidden weight is responsible, with a gain RMS(W)·√fan_in below 0.05, or if S is below a
    hundredth and a module other than a norm reduces it by more than 200 times. This finding ends
    when the gain is above 0.3 (unless it began below 0.005), when the module no longer reduces S,
    or when the run has converged. If the gains of all hidden weights are below 0.05, a tenth is
    enough, and it stays until the run has converged. For a plain RNN, a recurrent weight with a
    gain below 0.2 is a warning if the loss has not fallen after 100 steps: the state forgets its
    past within three time steps. It is an error at once if the scale of a normalisation starts at 0
    and the output of the module after it is the same for every sample. It is a warning after 50
    steps in which the loss has not fallen by a tenth if the vectors of an embedding have an RMS
    below 0.001 and the biases of the layer behind hide them.
    ## Why it matters
    The total spread of a layer's output can look normal while all of it comes from the biases.
    The network then returns the same output for every sample, and the gradients of its weights
    are as small as the remaining signal.
    ## Evidence
    S of the deepest layer relative to the first, the sample sensitivity S/√(S² + M²), the layer;
    for a single place, its gain or the factor by which it reduces S.
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
    before_training: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            *("TV101", "TV201", "TV304", "TV501", "TV502", "TV507"),
            *("TV601", "TV602", "TV603", "TV701", "TV806"),
        }
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.ACTIVATION,)
    fix: ClassVar[str] = INITIALISE
    refuted_by: ClassVar[str] = "The output differs clearly between two different samples."

    signal_ratio_min: float = threshold(
        1e-3, "S of the deepest hidden layer relative to the first; fires below this value."
    )
    signal_ratio_nothing: float = threshold(
        1e-6, "The same ratio; a warning below it until the loss has fallen by `healed_min`."
    )
    healed_min: float = threshold(0.7, "Fall of the loss as a share of its start, for this ratio.")
    signal_ratio_everywhere: float = threshold(
        0.1, "The same ratio where the gain of each hidden layer is below `gain_min`."
    )
    signal_ratio_module: float = threshold(
        0.01, "The same ratio where one module reduces the signal by `drop_min`."
    )
    sensitivity_min: float = threshold(
        0.05, "S/√(S² + M²) of the deepest hidden layer; fires below this value."
    )
    layers_min: int = threshold(4, "Minimum number of watched hidden layers.")
    gain_min: float = threshold(0.05, "RMS(W)·√fan_in of a hidden layer; the default has 0.58.")
    gain_usual: float = threshold(0.3, "Gain at which such a weight has recovered by training.")
    gain_nothing: float = threshold(
        0.005, "Gain below which the finding stays, although the weight has recovered."
    )
    recurrent_gain_min: float = threshold(0.2, "The same of the recurrent weight of a plain RNN.")
    vectors_min: float = threshold(
        1e-3, "RMS of the vectors of an embedding; PyTorch's default has 1, transformers 0.02."
    )
    steps_vectors: int = threshold(50, "Steps after which such an embedding is a warning.")
    drop_min: float = threshold(
        0.005, "S of a module relative to the one before; pooling reduces it by 10 to 50 times."
    )
    steps_late: int = threshold(20, "Step of the newest measurement that shows that it persists.")
    steps_min: int = threshold(100, "Steps after which a persistent finding becomes a warning.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first layer below a limit."""
        single = self._lost(history) or self._single_place(history)
        if single is not None:
            yield single
            return
        yield from self._through_depth(history)

    def _single_place(self, history: History) -> Finding | None:
        """Return a finding at the one weight or module that reduces the signal to nothing."""
        places = history.places(Stream.ACTIVATION)
        rows = [row for _, row in sorted((p.depth, i) for i, p in enumerate(places) if _hidden(p))]
        steps = history.steps(Stream.ACTIVATION)
        if len(rows) < self.layers_min or not len(steps) or steps[0] > START:
            return None
        signal, _ = self._propagation(history, rows, first=1)
        alive = np.flatnonzero(np.isfinite(signal) & (signal > 0))
        if len(alive) < self.layers_min or Course(history).converged:
            return None
        ratio = float(signal[alive[-1]] / signal[alive[0]])
        hidden = [g for g in weight_gains(history) if _is_hidden(g)]
        tiny = [g for g in hidden if 0 < g.value < self.gain_min]
        everywhere = 1 < len(tiny) == len(hidden)
        limit = self.signal_ratio_everywhere if everywhere else self.signal_ratio_module
        if not ratio < limit:
            return None
        if not everywhere:
            tiny = [
                g
                for g in tiny
                if g.value < self.gain_nothing or now_of(history, g) < self.gain_usual
            ]
            tiny = tiny if ratio < self.signal_ratio_min else []
        if tiny:
            evidence = Evidence(
                quantity=f"gain RMS(W)·√fan_in of {tiny[0].place.name} at the start",
                seen=tiny[0].value,
                limit=self.gain_min,
                direction="below",
                healthy=(0.3, 2.0),
            )
            size = f"{called(tiny[0].place)} multiply an input of unit scale by"
            text = f"the weights of {size} {number(tiny[0].value)}"
            if everywhere:
                text += (
                    f" and those of all {len(hidden)} hidden layers by less than {self.gain_min}"
                )
            return self._single(
                history,
                tiny[0].place.name,
                text,
                evidence,
                ratio,
                fix=_repaired(weight_gains(history), self.gain_min, everywhere=everywhere),
            )
        drop = signal[alive[1:]] / signal[alive[:-1]]
        late, _ = self._propagation(history, rows, last=5)
        late_drop = late[alive[1:]] / late[alive[:-1]]
        lowest = int(np.argmin(drop))
        if not max(drop[lowest], late_drop[lowest]) < self.drop_min:
            return None
        place = places[rows[int(alive[lowest + 1])]]
        if "Norm" in place.kind:
            return None  # it removes a scale that was too large
        evidence = Evidence(
            quantity=f"standard deviation across samples of {place.name}, relative to its input's",
            seen=float(drop[lowest]),
            limit=self.drop_min,
            direction="below",
            healthy=(0.1, 10.0),
        )
        text = f"{called(place)} reduces the signal to {number(drop[lowest])} of what came before"
        owners = {p.module for p in history.places(Stream.WEIGHT)}
        is_own = not place.nonlinearity and place.kind not in KNOWN and place.name not in owners
        fix = _without(place.name) if is_own else ""
        return self._single(history, place.name, text, evidence, ratio, fix=fix)

    def _single(
        self,
        history: History,
        where: str,
        text: str,
        evidence: Evidence,
        ratio: float,
        *,
        fix: str,
    ) -> Finding:
        return self.finding(
            fix=fix or None,
            severity=Severity.WARNING,
            where=where,
            since_step=int(history.steps(Stream.ACTIVATION)[0]),
            summary=f"Initial signal too small: {text}, and the standard deviation across samples "
            f"of the last hidden layer is {number(ratio)} times the first layer's.",
            evidence=(evidence, self._ratio_evidence(ratio)),
            confidence=0.9,
            stream=Stream.ACTIVATION,
            statistic=Stat.SAMPLE_STD,
        )

    def _lost(self, history: History) -> Finding | None:
        """Return a finding at a norm, an embedding or a state that loses the signal."""
        lost = (
            zero_gain(history)
            or forgetting(history, gain_min=self.recurrent_gain_min, steps_min=self.steps_min)
            or tiny_vectors(
                history,
                rms_max=self.vectors_min,
                sensitivity_max=self.sensitivity_min,
                steps_min=self.steps_vectors,
            )
        )
        if lost is None:
            return None
        return self.finding(
            severity=lost.severity,
            where=lost.where,
            since_step=lost.since,
            summary=f"{lost.text}.",
            evidence=lost.evidence,
            fix=lost.fix,
            confidence=0.8,
            stream=lost.stream,
            statistic=lost.statistic,
        )

    def _through_depth(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first layer below a limit of the propagation."""
        places = history.places(Stream.ACTIVATION)
        rows = [row for _, row in sorted((p.depth, i) for i, p in enumerate(places) if _hidden(p))]
        steps = history.steps(Stream.ACTIVATION)
        kinds = Counter(places[row].nonlinearity for row in rows if places[row].nonlinearity)
        squashing = sum(kinds[k] for k in SQUASHING)
        if len(rows) < self.layers_min or not len(steps) or steps[0] > START:
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
        late = history.steps_seen >= self.steps_min and steps[-1] >= self.steps_late
        lasting = still and late and not course.learned()
        # So little signal that the first layers have no gradient.
        nothing = ratio[-1] < self.signal_ratio_nothing and course.known and len(course.loss) > 1
        lasting |= nothing and not course.converged and not course.learned(self.healed_min)
        place = places[rows[int(alive[int(np.argmax(blind))])]]
        yield self.finding(
            severity=Severity.WARNING if lasting else Severity.INFO,
            where=place.name,
            since_step=int(steps[0]),
            summary=(
                "Initial weights too small: at the start, the standard deviation across samples of "
                f"the last hidden layer is {number(ratio[-1])} times the first layer's; from "
                f"{called(place)} on, the outputs hardly depend on the input."
            ),
            evidence=self._evidence(float(ratio[-1]), float(sensitivity[alive[-1]])),
            confidence=0.8,
            stream=Stream.ACTIVATION,
            statistic=Stat.SAMPLE_STD,
        )

    def _evidence(self, ratio: float, sensitivity: float) -> tuple[Evidence, ...]:
        """Return both quantities, each with its limit if it is below the limit."""
        blind = sensitivity < self.sensitivity_min
        return (
            self._ratio_evidence(ratio),
            Evidence(
                quantity="sample sensitivity S/√(S² + M²) of the last hidden layer",
                seen=sensitivity,
                limit=self.sensitivity_min if blind else None,
                direction="below" if blind else "",
                healthy=(0.2, None) if blind else None,
            ),
        )

    def _ratio_evidence(self, ratio: float) -> Evidence:
        small = ratio < self.signal_ratio_min
        return Evidence(
            quantity="standard deviation across samples, last hidden layer relative to first",
            seen=ratio,
            limit=self.signal_ratio_min if small else None,
            direction="below" if small else "",
            healthy=(0.1, 10.0) if small else None,
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


def _repaired(gains: Sequence[Gain], gain_min: float, *, everywhere: bool) -> str:
    """Return the code that gives tiny weights the gain of the others, or of PyTorch's default."""
    tiny = [gain for gain in gains if 0 < gain.value < gain_min]
    if not everywhere:
        usual = middle([g.value for g in gains if g.value >= gain_min and _is_hidden(g)])
        lines = [
            f"    model.get_parameter({gain.place.name!r}).mul_({usual / gain.value:.3g})"
            for gain in tiny
            if _is_hidden(gain)
        ]
        if not math.isnan(usual):
            return at(Moment.BEFORE_TRAINING, "\n".join(["with torch.no_grad():", *lines]))
    if len(tiny) > RESET_MAX:
        return INITIALISE
    names = ", ".join(repr(gain.place.module) for gain in tiny)
    return at(
        Moment.BEFORE_TRAINING,
        f"for name in ({names},):\n    model.get_submodule(name).reset_parameters()",
    )


def _is_hidden(gain: Gain) -> bool:
    return "output" not in gain.place.flags


def _without(name: str) -> str:
    """Return the code that leaves out a module without parameters that scales the signal."""
    return at(Moment.BEFORE_TRAINING, f"model.set_submodule({name!r}, nn.Identity())")


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
