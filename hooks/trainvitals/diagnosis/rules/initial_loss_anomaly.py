"""TV305: the first loss is far above that of a prediction that ignores the input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, times
from trainvitals.diagnosis.course import RECOVERY, Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import INITIALISE, Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import (
    InitialLoss,
    initial_likelihood,
    initial_loss,
    weight_gains,
)
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.supervision import output_module
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream


class _Bias(NamedTuple):
    """The bias of the output layer at the start."""

    name: str
    largest: float
    """Largest absolute entry."""


@dataclass(frozen=True)
class InitialLossAnomaly(Rule):
    """The model starts worse than a prediction that ignores the input: confident and wrong.

    ## What it detects
    The loss at the start (the first one, or the median of the first three if that is lower) is more
    than twice the loss of a prediction that ignores the input: ln C for a cross entropy over C
    classes, ln 2 for a binary cross entropy, the mean square of the targets for a squared error,
    half of it for a Huber loss, its root for an absolute or smooth L1 error. For a squared or Huber
    error the limit is four times: predictions with the spread of the targets and the opposite sign
    are twice as far away. For classes it is four times where the weights of the output layer are
    not larger than He's, and none of its biases is above 4: large features, as after a maximum,
    make such a loss, and it falls at once. With such an output layer, up to twice the limit is
    information until the loss, after 50 steps, is still not below that of a prediction that ignores
    the input; a large bias of a classifier's output layer is a warning at once. The predictions of
    the first step must account for it: another term of the loss, such as a penalty, does not count.
    The finding ends when the loss is 30 % below this value. For a sum of these losses, the terms
    are added; the limit is four times if numbers are compared. For the likelihood of a normal
    distribution with a predicted variance, the distances from the loss of the best constant are
    compared with those of mean 0 and variance 1, and the limit is eight times. The rule needs the
    kind of the loss, its reduction "mean" and one loss, or one sum, in the program.
    ## Why it matters
    A new model has no reason to prefer one output. A loss far above this value shows logits or
    outputs that are large at random: the first steps shrink them, with large gradients that kill
    units, and a cross entropy that starts saturated hardly has a gradient for the other classes.
    ## Evidence
    The loss at the start, the expected one and its formula, and the bias of the output layer.
    ## What to do
    - Initialise the output layer with a small scale and its bias with zeros or the log prior.
    - Look for a missing normalisation, or inputs or features that are not scaled.
    - For regression, standardise the targets, or set the last bias to their mean.
    ## When it is wrong
    Pretrained models that are continued on different labels or with a new temperature.
    ## References
    Karpathy, "A Recipe for Training Neural Networks", 2019 ("verify loss @ init"); Glorot & Bengio,
    "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """

    code: ClassVar[str] = "TV305"
    stage: ClassVar[Stage] = Stage.INITIALISATION
    before_training: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            *(
                "TV102",
                "TV201",
                "TV202",
                "TV501",
                "TV806",
                "TV502",
                "TV503",
                "TV504",
                "TV505",
                "TV601",
            ),
            *("TV701", "TV901"),
        }
    )
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = INITIALISE
    refuted_by: ClassVar[str] = "The first loss contains a term that is not a prediction error."

    loss_ratio_max: float = threshold(
        2.0,
        "First loss relative to that of a prediction that ignores the input; squared for a squared "
        "or Huber error.",
    )
    usual_head_factor: float = threshold(
        2.0, "Factor of that limit for classes, where the output layer starts no larger than He's."
    )
    usual_gain_max: float = threshold(
        1.55, "Largest RMS(W)·√fan_in of such an output layer; He's is 1.41."
    )
    sure_factor: float = threshold(
        2.0, "Factor of the limit from which such an output layer is a warning at once."
    )
    steps_min_usual: int = threshold(
        50, "Number of steps after which a smaller excess of such an output layer is a warning."
    )
    excess_min: float = threshold(
        0.5, "Least excess of a cross entropy over that value, in nats: a batch of few samples."
    )
    bias_max: float = threshold(
        4.0, "Largest absolute bias of the output layer above which the bias is named, for logits."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run, at the output layer if it is known."""
        start, course = initial_loss(history) or initial_likelihood(history), Course(history)
        if start is None or not start.explained or not course.known:
            return
        classes = start.formula.startswith("ln")
        limit = self.loss_ratio_max**start.power
        bias = _output_bias(history)
        named = classes and bias is not None and bias.largest > self.bias_max
        usual = not named and self._has_usual_head(history)
        if classes and usual:
            limit *= self.usual_head_factor
        if not start.seen > limit * start.expected:
            return
        if classes and start.seen - start.expected < self.excess_min:
            return
        if len(course.loss) > 5 and course.now(20) < (1 - RECOVERY) * start.expected:
            return
        sure = named or not usual or start.seen > self.sure_factor * limit * start.expected
        yield self.finding(
            severity=Severity.WARNING if sure or self._lasts(start, course) else Severity.INFO,
            where=bias.name if named and bias else output_module(history),
            since_step=start.step,
            summary=(
                f"Initial loss: {_compared(start, course)}"
                + (f"; {bias.name} is as large as {number(bias.largest)}" * named if bias else "")
                + "."
            ),
            evidence=(
                Evidence(
                    quantity=("level of the likelihood" if course.unit else "loss")
                    + " at the start relative to that of no knowledge",
                    seen=start.seen / start.expected,
                    limit=limit,
                    direction="above",
                    healthy=(None, 1.5),
                ),
                Evidence(
                    quantity="loss at the start",
                    seen=course.shown(start.seen),
                    statistic=Scalar.LOSS,
                ),
                Evidence(
                    quantity="loss of no knowledge",
                    seen=course.shown(start.expected),
                    text=start.formula,
                ),
                *self._bias_evidence(bias, named=named),
            ),
            fix=at(Moment.BEFORE_TRAINING, f"nn.init.zeros_(model.get_parameter({bias.name!r}))")
            if named and bias
            else None,
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _has_usual_head(self, history: History) -> bool:
        """Whether the output layer's weights are not larger than those of a usual initialisation.

        Large features, as after a maximum over many of them, then make the logits large.
        """
        head = output_module(history)
        gains = [gain.value for gain in weight_gains(history) if gain.place.module == head]
        return bool(gains) and max(gains) <= self.usual_gain_max

    def _lasts(self, start: InitialLoss, course: Course) -> bool:
        """Whether the first steps have not brought the loss below the expected one."""
        return len(course.loss) >= self.steps_min_usual and course.now(20) >= start.expected

    def _bias_evidence(self, bias: _Bias | None, *, named: bool) -> tuple[Evidence, ...]:
        if bias is None:
            return ()
        quantity = "largest absolute bias of the output layer at the start"
        if not named:
            return (Evidence(quantity=quantity, seen=bias.largest),)
        return (
            Evidence(
                quantity=quantity,
                seen=bias.largest,
                limit=self.bias_max,
                direction="above",
                healthy=(0.0, 2.0),
            ),
        )

    @staticmethod
    def sick() -> History:
        """Return ten classes whose first loss is 41, from a bias of 60."""
        return _run([41.0, 40.0, 38.0], spread=60.0, bias=60.0)

    @staticmethod
    def healthy() -> History:
        """Return the same first loss from another term: the logits cannot account for it."""
        return _run([41.0, 40.0, 38.0], spread=0.5, bias=0.1)


def _compared(start: InitialLoss, course: Course) -> str:
    """Return the two losses as half a sentence; a ratio only where the loss cannot be negative."""
    seen, expected = (number(course.shown(level)) for level in (start.seen, start.expected))
    if course.unit:
        return (
            f"the loss starts at {seen}; a prediction of {start.formula} would give {expected}, "
            f"and the best constant one {number(course.shown(1.0))}"
        )
    return (
        f"the loss starts at {seen}, {times(start.seen / start.expected)} that of a prediction "
        f"that ignores the input ({start.formula} = {expected})"
    )


def _output_bias(history: History) -> _Bias | None:
    places = history.places(Stream.WEIGHT)
    rows = [i for i, p in enumerate(places) if p.kind == "bias" and "output" in p.flags]
    steps = history.steps(Stream.WEIGHT)
    if len(rows) != 1 or len(steps) == 0:
        return None
    low, high = (float(history.values(Stream.WEIGHT, s)[0, rows[0]]) for s in (Stat.MIN, Stat.MAX))
    largest = max(abs(low), abs(high))
    return _Bias(places[rows[0]].name, largest) if np.isfinite(largest) else None


def _run(loss: list[float], *, spread: float, bias: float) -> History:
    places = [Place("head.bias", "bias", (10,), 4, "head", "Linear", flags=("output",))]
    history = (
        Example(len(loss))
        .scalars(
            loss=loss,
            prediction_mean=0.0,
            prediction_std=spread / 3,
            prediction_min=0.0,
            prediction_max=spread,
        )
        .stream(Stream.WEIGHT, places, {"head.bias": {Stat.MIN: -0.1, Stat.MAX: bias}})
        .history
    )
    attributes: dict[str, str | float] = {"reduction": "mean", "classes": 10.0}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", attributes))
    return history
