"""TV304: the scale of the initial weights does not fit the nonlinearity between the layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import INITIALISE, Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import START, Gain, initial_loss, weight_gains
from trainvitals.diagnosis.loss_parts import a_term_is_learned
from trainvitals.diagnosis.places import window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import middle
from trainvitals.diagnosis.update_ratio import STUCK_STEPS
from trainvitals.wire import Place, Stat, Stream


class _Wanted(NamedTuple):
    """What a nonlinearity needs of the weights before it."""

    gain: float
    """RMS(W)·√fan_in that keeps the signal."""
    fix: str


_HE: Final = _Wanted(math.sqrt(2), INITIALISE)
_TANH: Final = _Wanted(1.0, INITIALISE)
_SIGMOID: Final = _Wanted(
    4.0, at(Moment.BEFORE_TRAINING, "remedies.initialise(model, 'xavier_normal', gain=4.0)")
)
_SELU: Final = _Wanted(
    1.0,
    at(
        Moment.BEFORE_TRAINING,
        "remedies.initialise(model, 'lecun_normal')",
    ),
)
WANTED: Final[Mapping[str, _Wanted]] = MappingProxyType(
    {
        **dict.fromkeys(("relu", "leaky_relu", "gelu", "silu", "mish", "elu", "hardswish"), _HE),
        **dict.fromkeys(("tanh", "hardtanh"), _TANH),
        "sigmoid": _SIGMOID,
        "selu": _SELU,
    }
)
_NAMES: Final = (
    (1 / math.sqrt(3), "PyTorch's default"),
    (1.0, "Xavier or LeCun, gain 1"),
    (math.sqrt(2), "He"),
    (5 / 3, "Xavier, gain 5/3"),
)


@dataclass(frozen=True)
class InitActivationMismatch(Rule):
    """The initial weights do not fit the nonlinearity: the signal shrinks or grows by each layer.

    ## What it detects
    The sum over the hidden layers of |ln χ|, with χ = (gain/wanted gain)² the factor on the
    variance of the signal: the gain is RMS(W)·√fan_in, wanted are √2 before ReLU and its
    relatives, 1 before tanh (where the signal is small) and SELU, 4 before sigmoid. Reported as a
    note when the sum is above 6 with one sign, and the measured variance across samples changes in
    the same direction by more than e^3.5 from the first to the last hidden layer. It is a warning
    if the signal shrinks by less than a thousand times (`init_scale_too_small` and
    `vanishing_gradient` report more) and neither the loss nor a term of it has fallen after 100
    steps; if it shrinks by more and the loss is that of the best constant prediction after 60
    steps; or if the signal
    grows and the first loss is more than twice that of a prediction that ignores the input.
    ## Why it matters
    A factor per layer becomes a power of the depth: 0.41 per ReLU layer, as PyTorch's default for
    Linear gives, is 1e-8 after twenty layers.
    ## Evidence
    The median gain and the initialiser that it looks like, the wanted gain, and both sums.
    ## What to do
    Initialise with the gain for the nonlinearity: He before ReLU, Xavier with gain 5/3
    before tanh. Replace sigmoid between layers. Or put a normalisation between the layers.
    ## When it is wrong
    Networks with residual connections or normalisation keep the signal in another way; the
    measured signal then does not follow the product, and the rule is silent.
    ## References
    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    2010; He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852; Schoenholz et al.,
    "Deep Information Propagation", 2017, arXiv:1611.01232.
    """

    code: ClassVar[str] = "TV304"
    stage: ClassVar[Stage] = Stage.INITIALISATION
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            *("TV102", "TV202", "TV305", "TV501", "TV502", "TV503", "TV504", "TV507"),
            *("TV601", "TV602", "TV603", "TV607", "TV701", "TV806", "TV901"),
        }
    )
    damages_loss: ClassVar[bool] = False
    permanent: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (Stream.WEIGHT, Stream.ACTIVATION)
    fix: ClassVar[str] = INITIALISE
    refuted_by: ClassVar[str] = "The scale of the outputs is the same in all layers."

    log_factor_max: float = threshold(
        6.0, "Sum of ln χ over the hidden layers, absolute: e^6 is a factor of 400."
    )
    measured_min: float = threshold(
        3.5, "The same of the measured variance across samples, last hidden layer over first."
    )
    measured_max: float = threshold(
        14.0, "The same of a signal that shrinks; above it, other rules warn of the consequence."
    )
    extreme_min: float = threshold(
        27.0, "The same, from which a signal that shrinks is a warning until the loss has fallen."
    )
    healed_min: float = threshold(0.7, "Fall of the loss as a share of its start, for this sum.")
    loss_ratio_max: float = threshold(
        2.0, "First loss relative to that of no knowledge, for a signal that grows."
    )
    constant_share: float = threshold(
        0.95, "Loss as a share of that of a constant prediction, for a signal that shrinks."
    )
    steps_min: int = threshold(100, "Steps after which a loss that has not fallen is evidence.")
    layers_min: int = threshold(3, "Minimum number of hidden layers with a known nonlinearity.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one note, at the first hidden layer."""
        chain = [g for g in weight_gains(history) if _is_hidden(g.place) and g.value > 0]
        if len(chain) < self.layers_min:
            return
        # The first layer sets the scale; from the second on, its input has passed a nonlinearity.
        expected = sum(
            2 * math.log(g.value / WANTED[b.place.nonlinearity].gain) for b, g in pairwise(chain)
        )
        measured = _measured(history, chain)
        if not (abs(expected) > self.log_factor_max and abs(measured) > self.measured_min):
            return
        if (expected < 0) != (measured < 0):
            return
        kind = Counter(g.place.nonlinearity for g in chain).most_common(1)[0][0]
        wanted, gain = WANTED[kind], middle([g.value for g in chain])
        look = next((f" (looks like {n})" for g, n in _NAMES if abs(gain / g - 1) < 0.05), "")
        yield self.finding(
            severity=Severity.WARNING if self._harms(history, measured) else Severity.INFO,
            where=chain[0].place.name,
            since_step=int(history.steps(Stream.WEIGHT)[0]),
            summary=(
                f"Initialisation and nonlinearity: the gain of {len(chain)} hidden layers is "
                f"{number(gain)}{look}, {kind} wants {number(wanted.gain)}; the standard deviation "
                f"across samples is {number(math.exp(measured / 2))} times the first layer's in "
                "the last."
            ),
            evidence=(
                Evidence(
                    quantity="sum of ln χ over the hidden layers, absolute",
                    seen=abs(expected),
                    limit=self.log_factor_max,
                    direction="above",
                    healthy=(0.0, 3.0),
                ),
                Evidence(
                    quantity="ln of the measured variance, last over first, absolute",
                    seen=abs(measured),
                    limit=self.measured_min,
                    direction="above",
                    healthy=(0.0, 2.0),
                ),
                Evidence(quantity="median gain RMS(W)·√fan_in", seen=gain),
                Evidence(quantity=f"gain that {kind} wants", seen=wanted.gain),
            ),
            fix=_without_sigmoids(history, chain) if kind == "sigmoid" else wanted.fix,
            confidence=0.8,
            stream=Stream.ACTIVATION,
            statistic=Stat.SAMPLE_STD,
        )

    def _harms(self, history: History, measured: float) -> bool:
        """Whether the loss shows the damage."""
        course, start = Course(history), initial_loss(history)
        if measured > 0 and start is not None:
            return start.seen > self.loss_ratio_max * start.expected
        if measured < -self.extreme_min and course.known and len(course.loss) > 1:
            return not course.converged and not course.learned(self.healed_min)
        if measured < -self.measured_max and self._is_at_constant(course):
            return True
        late = course.known and len(course.loss) >= self.steps_min
        late = late and measured > -self.measured_max
        idle = not course.learned() and not a_term_is_learned(history)
        return late and idle and not course.converged

    def _is_at_constant(self, course: Course) -> bool:
        """Whether the model predicts no better than a constant, whatever the loss was at first."""
        if not course.known or course.constant is None or len(course.loss) < STUCK_STEPS:
            return False
        return course.now(20) >= self.constant_share * course.constant and not course.converged

    @staticmethod
    def sick() -> History:
        """Return ten ReLU layers with PyTorch's default initialisation."""
        return _run(gain=1 / math.sqrt(3), factor=math.sqrt(1 / 6))

    @staticmethod
    def healthy() -> History:
        """Return the same weights in a residual network: the signal does not follow them."""
        return _run(gain=1 / math.sqrt(3), factor=1.0)


def _without_sigmoids(history: History, chain: Sequence[Gain]) -> str:
    """Return code that replaces the sigmoid modules between the layers; a larger gain without any.

    With its largest slope of 1/4, a sigmoid needs weights that saturate it to keep the signal.
    """
    first, last = chain[0].place.depth, max(g.place.depth for g in chain)
    modules = [
        place.name
        for place in history.places(Stream.ACTIVATION)
        if place.module_kind == "Sigmoid"
        and "output" not in place.flags
        and first <= place.depth <= last + 1
    ]
    if not modules:
        return WANTED["sigmoid"].fix
    return at(
        Moment.BEFORE_TRAINING,
        "from torch import nn\n"
        f"for name in {modules!r}:\n"
        "    model.set_submodule(name, nn.SiLU())\n"
        "remedies.initialise(model)",
    )


def _is_hidden(place: Place) -> bool:
    return (
        place.nonlinearity in WANTED
        and place.depth >= 0
        and not {"output", "recurrent", "attention"} & {*place.flags}
    )


def _measured(history: History, chain: list[Gain]) -> float:
    """Return ln of the variance across samples of the last layer over the first; NaN if unknown."""
    rows = {p.name: i for i, p in enumerate(history.places(Stream.ACTIVATION))}
    ends = [rows.get(g.place.module) for g in (chain[0], chain[-1])]
    if ends[0] is None or ends[1] is None:
        return math.nan
    seen = window(history, Stream.ACTIVATION, Stat.SAMPLE_STD, [ends[0], ends[1]], first=1)
    if len(seen.steps) == 0 or seen.steps[0] > START:
        return math.nan
    first, last = seen.values[0]
    return float(2 * np.log(last / first)) if first > 0 and last > 0 else math.nan


def _run(*, gain: float, factor: float) -> History:
    weights = [
        Place(f"{i}.weight", "weight", (32, 32), i, str(i), "Linear", "relu") for i in range(10)
    ]
    modules = [Place(str(i), "Linear", depth=i, module=str(i)) for i in range(10)]
    return (
        Example(3)
        .stream(Stream.WEIGHT, weights, {p.name: {Stat.L2: gain * 32**0.5} for p in weights})
        .stream(
            Stream.ACTIVATION,
            modules,
            {p.name: {Stat.SAMPLE_STD: factor**i} for i, p in enumerate(modules)},
        )
        .history
    )
