"""TV402: the last activation cannot produce what the loss or the targets need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at, without_last
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Flags
from trainvitals.diagnosis.supervision import (
    DISTANCES,
    DOWNSTREAM,
    LossKind,
    connected,
    in_graph,
    only_loss,
    output_module,
    output_place,
)
from trainvitals.wire import Event, EventKind, Scalar, Stream

RANGES: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "sigmoid": (0.0, 1.0),
        "softmax": (0.0, 1.0),
        "hardsigmoid": (0.0, 1.0),
        "tanh": (-1.0, 1.0),
        "relu": (0.0, math.inf),
        "softplus": (0.0, math.inf),
        "exp": (0.0, math.inf),
    }
)
"""Activation → smallest and largest value that it can have."""
MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sigmoid": "Sigmoid",
        "softmax": "Softmax",
        "hardsigmoid": "Hardsigmoid",
        "tanh": "Tanh",
        "relu": "ReLU",
        "softplus": "Softplus",
    }
)
"""Activation → its module in torch.nn."""
_LOSSES: Final = {
    "cross_entropy": "a cross entropy needs logits of both signs",
    "bce_with_logits": "BCEWithLogitsLoss needs logits of both signs",
    "bce": "BCELoss needs probabilities from 0 to 1",
}
TOKENS: Final = MappingProxyType(
    {
        f"{activation}_before_{loss}": (activation, loss)
        for loss, activations in (
            ("cross_entropy", ("sigmoid", "relu", "tanh")),
            ("bce_with_logits", ("relu", "tanh")),
            ("bce", ("relu", "tanh")),
        )
        for activation in activations
    }
)

COSINES: Final = "cosines_as_logits"
SCALE: Final = 16
"""A usual factor of cosines: with ten classes, the smallest loss is then 1e-13."""


class _Targets(NamedTuple):
    """Targets of the newest measured batches, all in part outside an activation's range."""

    since: int
    seen: float
    limit: float
    outside: float
    """Distance from the range, in standard deviations of the targets."""
    below: bool


@dataclass(frozen=True)
class OutputRangeMismatch(Rule):
    """The last activation limits the output to a range that does not fit the loss or the targets.

    ## What it detects
    In the graph of the training loss: sigmoid, tanh or ReLU as the last operation before a cross
    entropy or BCEWithLogitsLoss, or ReLU or tanh before BCELoss; or logits of a cross entropy that
    are cosines, products of two vectors of length one without a scale. For regression losses: in
    each of the newest three measured batches, targets lie outside the range of the last activation
    (sigmoid, softmax, tanh, ReLU, softplus, exp) by more than half of their standard deviation. For
    a loss of the program's own, the last activation is the one behind the model's last layer. A
    warning if in each of the newest eight measured batches at least 40 % of the squared error
    belongs to outputs that a clamp or a ReLU at the end holds at its limit.
    ## Why it matters
    The model cannot reach these targets with any weights. Logits between 0 and 1 cannot express
    a confident prediction, nor can cosines; a ReLU or a clamp at the output has no gradient where
    its input is outside the limits.
    ## Evidence
    The last activation, and the targets outside its range.
    ## What to do
    Remove the last activation, or scale the targets into its range. Multiply cosines by a scale.
    Give the loss the output before a clamp, and clamp what is shown or stored.
    ## When it is wrong
    Rare targets far outside the range that are noise: clip them. The rule is silent on a program
    with different losses, and where the graph of the loss cannot be read (compiled models).
    ## References
    Wardat et al., "DeepDiagnosis", 2022, arXiv:2112.04972; Ben Braiek & Khomh, "TheDeepChecker",
    2023, arXiv:2204.00694; Wang et al., "NormFace", 2017, arXiv:1704.06369, proposition 2.
    """

    code: ClassVar[str] = "TV402"
    stage: ClassVar[Stage] = Stage.WIRING
    before_training: ClassVar[bool] = True
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = DOWNSTREAM
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = (
        "Every target is within the range of the model's output; few outputs are at its limit."
    )

    observations: int = threshold(3, "Newest measured batches with targets outside the range.")
    outside_min: float = threshold(
        0.5, "Distance of a target from the range, in standard deviations of the targets."
    )

    held_min: float = threshold(
        0.4, "Share of the squared error at outputs that the last operation holds at a limit."
    )
    held_batches: int = threshold(8, "Newest measured batches with such a share.")
    held_steps: int = threshold(50, "Minimum number of steps for it.")
    held_kept: float = threshold(0.9, "Newest share relative to the first, below which it falls.")
    held_learned: float = threshold(
        0.05, "Loss relative to that of a constant, below which such a share is harmless."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        where = output_module(history)
        if (found := connected(history, TOKENS)) is not None:
            kind, token = found
            activation, loss = TOKENS[token]
            yield self.finding(
                severity=Severity.ERROR,
                where=where,
                since_step=kind.step,
                summary=f"Output range: the model's last operation has been {activation} since "
                f"step {kind.step}, but {_LOSSES[loss]}.",
                evidence=(in_graph(token),),
                fix=_without(activation, kind),
                stream=Stream.SCALAR,
                statistic=Scalar.LOSS,
            )
            return
        if (cosines := self._cosines(history, where)) is not None:
            yield cosines
            return
        only = only_loss(history)
        last = "" if only is None else _last_activation(history, only)
        if only is not None and (held := self._held(history, where)) is not None:
            yield held
            return
        if only is None or last not in RANGES:
            return
        targets = self._outside(history, *RANGES[last])
        if targets is not None:
            yield self._finding(only, last, targets, where)

    def _held(self, history: History, where: str) -> Finding | None:
        """Return a finding for outputs at a limit of the last operation, which have no gradient."""
        share = history.scalar(Scalar.ERROR_WITHOUT_GRADIENT).finite()
        first, newest = share.values[: self.held_batches], share.values[-self.held_batches :]
        course = Course(history)
        if len(newest) < self.held_batches or len(course.loss) < self.held_steps:
            return None
        harmless = self.held_learned * (course.constant or 0.0)
        if not newest.min() >= self.held_min or course.now() < harmless:
            return None
        if newest.mean() < self.held_kept * first.mean():
            return None  # they are leaving the limit
        return self.finding(
            severity=Severity.WARNING,
            where=where,
            since_step=_start(share, share.values >= self.held_min),
            summary=f"Output range: at least {percent(float(newest.min()))} of the squared error "
            "belongs to outputs that the last operation (a clamp or a ReLU) holds at its limit; "
            "they have no gradient.",
            evidence=(
                Evidence(
                    quantity="share of the squared error at outputs without a gradient",
                    seen=float(newest.min()),
                    limit=self.held_min,
                    direction="above",
                    healthy=(0.0, 0.1),
                    unit="share",
                    statistic=Scalar.ERROR_WITHOUT_GRADIENT,
                ),
            ),
            fix="",  # where the program clamps is not known
            confidence=0.85,
            stream=Stream.SCALAR,
            statistic=Scalar.ERROR_WITHOUT_GRADIENT,
        )

    def _cosines(self, history: History, where: str) -> Finding | None:
        """Return a finding for logits between −1 and 1, which bound a cross entropy from below."""
        found = connected(history, (COSINES,))
        if found is None or found[0].classes < 2:
            return None
        classes = found[0].classes
        lowest = math.log1p((classes - 1) * math.exp(-2))
        return self.finding(
            severity=Severity.WARNING,
            where=where,
            since_step=found[0].step,
            summary=f"Output range: the logits of {classes} classes are cosines, between −1 and 1, "
            f"so that the cross entropy cannot fall below {number(lowest)}.",
            evidence=(in_graph(COSINES),),
            fix=at(
                Moment.LOSS,
                f"loss = F.cross_entropy({SCALE} * prediction, y)  # or a learned scale",
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _outside(self, history: History, low: float, high: float) -> _Targets | None:
        smallest, largest, std = (
            history.scalar(name)
            for name in (Scalar.TARGET_MIN, Scalar.TARGET_MAX, Scalar.TARGET_STD)
        )
        if not len(smallest) == len(largest) == len(std) >= self.observations:
            return None
        for series, limit, sign in ((smallest, low, -1.0), (largest, high, 1.0)):
            distance = sign * (series.values - limit)
            spread = np.maximum(std.values, 1e-6 * np.maximum(1.0, np.abs(series.values)))
            away = distance > self.outside_min * spread
            if math.isfinite(limit) and away[-self.observations :].all():
                since = _start(series, away)
                share = float(distance[-1] / spread[-1])
                return _Targets(since, float(series.values[-1]), limit, share, sign < 0)
        return None

    def _finding(self, kind: LossKind, activation: str, targets: _Targets, where: str) -> Finding:
        is_removable = activation in MODULES and activation == kind.last_activation
        side = "smallest" if targets.below else "largest"
        word = "below" if targets.below else "above"
        low, high = RANGES[activation]
        return self.finding(
            severity=Severity.ERROR,
            where=where,
            since_step=targets.since,
            summary=f"Output range: the {side} target is {number(targets.seen)}, but the last "
            f"operation, {activation}, cannot be {word} {number(targets.limit)}.",
            evidence=(
                Evidence(
                    quantity=f"distance of the {side} target from the range of {activation}",
                    seen=targets.outside,
                    limit=self.outside_min,
                    direction="above",
                    healthy=(None, 0.0),
                    unit="standard deviations",
                ),
                Evidence(quantity=f"{side} target", seen=targets.seen),
                Evidence(
                    quantity=f"range of {activation}",
                    seen=f"{number(low)} to {'infinity' if high == math.inf else number(high)}",
                ),
            ),
            fix=_without(activation, kind) if is_removable else None,
            confidence=0.95,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MIN if targets.below else Scalar.TARGET_MAX,
        )

    @staticmethod
    def sick() -> History:
        """Return targets of both signs for a ReLU output."""
        return _run(-3.0)

    @staticmethod
    def healthy() -> History:
        """Return targets that are positive but for a little noise."""
        return _run(-0.1)


def _last_activation(history: History, kind: LossKind) -> str:
    """Return the last activation before a loss that compares numbers; "" if there is none.

    In the graph of a usual loss; for a loss of the program's own, what the model's last layer goes
    into, if there are as many outputs as targets, all of them within its range.
    """
    if len(kind.kinds) == 1 and kind.kinds[0] in DISTANCES:
        return kind.last_activation
    output = output_place(history)
    if (
        kind.kinds
        or output is None
        or math.prod(kind.prediction_shape) != math.prod(kind.target_shape)
    ):
        return ""
    activation = output.nonlinearity
    low, high = RANGES.get(activation, (math.inf, -math.inf))
    smallest, largest = (
        history.scalar(name).values for name in (Scalar.PREDICTION_MIN, Scalar.PREDICTION_MAX)
    )
    is_within = len(smallest) and (smallest >= low).all() and (largest <= high).all()
    return activation if is_within else ""


def _start(series: Series, away: Flags) -> int:
    others = np.flatnonzero(~away)
    return int(series.steps[others[-1] + 1 if len(others) else 0])


def _run(smallest: float) -> History:
    n = 6
    history = (
        Example(n)
        .scalars(
            loss=np.full(n, 2.0),
            target_min=np.full(n, smallest),
            target_max=np.full(n, 3.0),
            target_std=np.full(n, 1.0),
        )
        .history
    )
    attributes: dict[str, str | float] = {"last_activation": "relu"}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", attributes))
    return history


def _without(activation: str, kind: LossKind) -> str:
    return without_last(MODULES[activation], kind.kinds[0], outside=kind.activation_outside)
