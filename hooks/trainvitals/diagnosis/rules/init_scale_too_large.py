"""TV302: initial weights are too large for the layer, and the network shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent, times
from trainvitals.diagnosis.course import RECOVERY, Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import INITIALISE
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import (
    START,
    Gain,
    attention_gains,
    initial_loss,
    now_of,
    weight_gains,
)
from trainvitals.diagnosis.places import called, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, middle
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class InitScaleTooLarge(Rule):
    """The initial weights of a layer are too large: signals grow or saturate from the first step.

    ## What it detects
    At the start, a weight matrix has a gain RMS(W)·√fan_in above 3, which is the factor on an
    input of unit scale, and the network shows a consequence: the first loss is more than twice that
    of a prediction that ignores the input, or is not finite; the standard deviation across samples
    grows by more than 30 times from the first layer to the last; more than half of the outputs of a
    sigmoid or tanh layer are saturated; the states of a recurrent layer have an RMS above 0.7; or
    its gain and the standard deviation of its outputs are ten times those of the median layer. Or
    the weights of the queries and keys of an attention have a gain above 10.
    The finding ends when the loss has fallen clearly below that of no knowledge and the gain has
    become usual or the run has converged. Layers before a normalisation layer are left out.
    ## Why it matters
    The predictions start confidently wrong, and the first thousands of steps undo the
    initialisation. Gradients grow with the weights of all later layers; sigmoid and tanh saturate.
    ## Evidence
    The gain of the first affected layer and of how many layers, and each measured consequence.
    ## What to do
    - Initialise with He (`kaiming_normal_`) before ReLU, with Xavier before tanh: the standard
      deviation is then about √(2/fan_in) or √(1/fan_in), not 1.
    - The output layer needs a small scale: PyTorch's default, or a standard deviation of 0.01.
    - For recurrent weights use `orthogonal_`.
    ## When it is wrong
    Weights that are large on purpose, for inputs that are small: then the consequences are missing.
    Other weights than those of linear, convolution and recurrent layers are not judged.
    ## References
    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    2010; He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852; Poole et al.,
    "Exponential expressivity in deep neural networks through transient chaos", 2016,
    arXiv:1606.05340.
    """

    code: ClassVar[str] = "TV302"
    stage: ClassVar[Stage] = Stage.INITIALISATION
    before_training: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            *(
                "TV101",
                "TV102",
                "TV105",
                "TV201",
                "TV202",
                "TV203",
                "TV304",
                "TV305",
                "TV501",
                "TV806",
                "TV502",
                "TV503",
            ),
            *("TV504", "TV505", "TV601", "TV602", "TV603", "TV607", "TV701", "TV901"),
        }
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.WEIGHT,)
    fix: ClassVar[str] = INITIALISE
    refuted_by: ClassVar[str] = (
        "Without this layer's scale, the first loss and the outputs of the layers are the same."
    )

    gain_max: float = threshold(
        3.0, "RMS(W)·√fan_in; the default has 0.58, Xavier 1, He 1.41, Xavier for tanh 1.67."
    )
    loss_ratio_max: float = threshold(2.0, "First loss relative to that of no knowledge.")
    signal_growth_max: float = threshold(
        30.0, "Standard deviation across samples, last layer relative to the first."
    )
    saturated_share_max: float = threshold(
        0.5, "Share of saturated outputs of a sigmoid or tanh layer, 0 to 1."
    )
    outlier_min: float = threshold(
        10.0, "Gain of a layer, and the signal behind it, relative to the median layer."
    )
    attention_gain_max: float = threshold(
        10.0, "Gain of the weights of queries and keys; the scores grow with its square."
    )
    state_rms_max: float = threshold(0.7, "RMS of the states of a recurrent layer, 0 to 1.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first of the layers with the largest gains."""
        scores = [g for g in attention_gains(history) if g.value > self.attention_gain_max]
        large = [g for g in weight_gains(history) if self.gain_max < g.value]
        large = [g for g in dict.fromkeys((*large, *scores)) if g.value < math.inf]
        at_ease = _at_ease(history)
        if not large or (at_ease and Course(history).converged):
            return
        # Half of the largest gain: in a deep network all layers are alike, and the first counts.
        most = max(g.value for g in large)
        first = next(g for g in large if g.value >= most / 2)
        shown = self._consequences(history, large)
        if not shown or (at_ease and now_of(history, first) <= self.gain_max):
            return
        others = len(large) - 1
        more = f" ({others} more {'layer is' if others == 1 else 'layers are'} affected)"
        yield self.finding(
            severity=Severity.ERROR,
            where=first.place.name,
            since_step=int(history.steps(Stream.WEIGHT)[0]),
            summary=(
                f"Initial weights too large: the weights of {called(first.place)} multiply an "
                f"input of unit scale by {number(first.value)}{more * (others > 0)}; "
                f"{shown[0][0]}."
            ),
            evidence=(
                Evidence(
                    quantity=f"gain RMS(W)·√fan_in of {first.place.name} at the start",
                    seen=first.value,
                    limit=self.gain_max,
                    direction="above",
                    healthy=(0.3, 2.0),
                ),
                *(evidence for _, evidence in shown),
                Evidence(quantity="layers with a gain above the limit", seen=float(len(large))),
            ),
            confidence=0.95,
            stream=Stream.WEIGHT,
            statistic=Stat.STD,
        )

    def _consequences(self, history: History, large: list[Gain]) -> list[tuple[str, Evidence]]:
        """Return (half a sentence, evidence) for each measured consequence."""
        found = [self._loss(history), self._growth(history), self._saturation(history)]
        found += [self._states(history, large), self._outlier(history, large)]
        found.append(self._attention(attention_gains(history)))
        return [consequence for consequence in found if consequence is not None]

    def _loss(self, history: History) -> tuple[str, Evidence] | None:
        broken = history.scalar(Scalar.NONFINITE_LOSS)
        if len(broken) and broken.steps[0] <= START and broken.values[0] > 0:
            evidence = Evidence(
                quantity="losses that are not finite, in the first step",
                seen=float(broken.values[0]),
                limit=0.0,
                direction="above",
                text="each is one too many",
            )
            return "the first loss is not finite", evidence
        start = initial_loss(history)
        if start is None or not start.seen > self.loss_ratio_max * start.expected:
            return None
        evidence = Evidence(
            quantity="first loss relative to that of no knowledge",
            seen=start.seen / start.expected,
            limit=self.loss_ratio_max,
            direction="above",
            healthy=(None, 1.5),
        )
        text = f"the first loss is {number(start.seen)}, where {number(start.expected)} is usual"
        return f"{text} ({start.formula})", evidence

    def _growth(self, history: History) -> tuple[str, Evidence] | None:
        places = history.places(Stream.ACTIVATION)
        rows = [r for _, r in sorted((p.depth, r) for r, p in enumerate(places))]
        signal = _first_row(history, Stat.SAMPLE_STD, rows)
        signal = signal[np.isfinite(signal) & (signal > 0)]
        if len(signal) < 2 or not signal[-1] > self.signal_growth_max * signal[0]:
            return None
        growth = float(signal[-1] / signal[0])
        evidence = Evidence(
            quantity="standard deviation across samples, last layer relative to first",
            seen=growth,
            limit=self.signal_growth_max,
            direction="above",
            healthy=(0.01, 10.0),
        )
        return f"the signal grows {times(growth)} from the first layer to the last", evidence

    def _saturation(self, history: History) -> tuple[str, Evidence] | None:
        places = history.places(Stream.ACTIVATION)
        rows = [r for r, p in enumerate(places) if "output" not in p.flags]
        share = np.nan_to_num(_first_row(history, Stat.SATURATED_SHARE, rows))
        if len(share) == 0 or not share.max() > self.saturated_share_max:
            return None
        worst = float(share.max())
        layer = places[rows[int(share.argmax())]].name
        evidence = Evidence(
            quantity=f"share of saturated outputs of {layer}",
            seen=worst,
            limit=self.saturated_share_max,
            direction="above",
            healthy=(0.0, 0.3),
            unit="share",
        )
        return f"{percent(worst)} of the outputs of {layer} are saturated", evidence

    def _states(self, history: History, large: list[Gain]) -> tuple[str, Evidence] | None:
        modules = {g.place.module for g in large if "recurrent" in g.place.flags}
        places = history.places(Stream.ACTIVATION)
        rows = [r for r, p in enumerate(places) if p.name in modules]
        size = np.hypot(_first_row(history, Stat.MEAN, rows), _first_row(history, Stat.STD, rows))
        size = np.nan_to_num(size)
        if len(size) == 0 or not size.max() > self.state_rms_max:
            return None
        worst = float(size.max())
        evidence = Evidence(
            quantity="RMS of the states of the recurrent layer",
            seen=worst,
            limit=self.state_rms_max,
            direction="above",
            healthy=(0.0, 0.5),
        )
        return f"the states of the recurrent layer have an RMS of {number(worst)}", evidence

    def _outlier(self, history: History, large: list[Gain]) -> tuple[str, Evidence] | None:
        """Return a layer that multiplies its input unlike all others."""
        largest = max(large, key=lambda g: g.value)
        usual = middle(np.array([g.value for g in weight_gains(history)]))
        places = history.places(Stream.ACTIVATION)
        signal = _first_row(history, Stat.SAMPLE_STD, list(range(len(places))))
        here = signal[[p.name == largest.place.module for p in places]]
        if not largest.value > self.outlier_min * usual or len(here) != 1:
            return None
        others = signal[np.isfinite(signal)]
        ratio = float(here[0]) / middle(others) if len(others) else math.nan
        if not ratio > self.outlier_min:
            return None
        evidence = Evidence(
            quantity=f"standard deviation across samples behind {called(largest.place)}, relative "
            "to the median layer",
            seen=ratio,
            limit=self.outlier_min,
            direction="above",
            healthy=(0.1, 3.0),
        )
        return f"its outputs are {times(ratio)} as large as those of the median layer", evidence

    def _attention(self, scores: list[Gain]) -> tuple[str, Evidence] | None:
        """Return queries and keys whose scores make the softmax of an attention one-hot."""
        most = max((g.value for g in scores), default=0.0)
        if not self.attention_gain_max < most < math.inf:
            return None
        evidence = Evidence(
            quantity="largest gain RMS(W)·√fan_in of queries or keys",
            seen=most,
            limit=self.attention_gain_max,
            direction="above",
            healthy=(0.3, 3.0),
        )
        return "the scores of the attention grow with its square, and softmax saturates", evidence

    @staticmethod
    def sick() -> History:
        """Return four layers initialised with a standard deviation of 1."""
        return _run(gain=8.0, loss=60.0)

    @staticmethod
    def healthy() -> History:
        """Return the same scale where the outputs and the loss are usual: the inputs are small."""
        return _run(gain=8.0, loss=2.4, growth=1.0)


def _at_ease(history: History) -> bool:
    """Whether the loss is clearly below that of no knowledge, or has fallen by half if unknown."""
    course, start = Course(history), initial_loss(history)
    if start is None:
        return course.learned(share=0.5)
    return len(course.loss) > 5 and course.now(20) < (1 - RECOVERY) * start.expected


def _first_row(history: History, statistic: Stat, rows: list[int]) -> Floats:
    """Return a statistic of some modules at the first captured step; empty if it came too late."""
    seen = window(history, Stream.ACTIVATION, statistic, rows, first=1)
    if len(seen.steps) == 0 or seen.steps[0] > START:
        return np.empty(0)
    values: Floats = seen.values[0]
    return values


def _run(*, gain: float, loss: float, growth: float = 8.0) -> History:
    shape = (64, 64)
    weights = [
        Place(f"{i}.weight", "weight", shape, 2 * i, str(i), "Linear", "relu") for i in range(4)
    ]
    modules = [Place(str(i), "Linear", depth=2 * i, module=str(i)) for i in range(4)]
    l2 = gain * math.sqrt(math.prod(shape[:1]))
    history = (
        Example(5)
        .scalars(
            loss=np.full(5, loss),
            prediction_mean=0.0,
            prediction_std=loss,
            prediction_min=-2 * loss,
            prediction_max=2 * loss,
        )
        .stream(Stream.WEIGHT, weights, {p.name: {Stat.L2: l2} for p in weights})
        .stream(
            Stream.ACTIVATION,
            modules,
            {p.name: {Stat.SAMPLE_STD: 0.1 * growth**i} for i, p in enumerate(modules)},
        )
        .history
    )
    attributes: dict[str, str | float] = {"reduction": "mean", "classes": 10.0}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", attributes))
    return history
