"""TV704: the output bias does not start at what is known of the targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import START
from trainvitals.diagnosis.places import has_no_offset, window
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import middle
from trainvitals.diagnosis.supervision import DISTANCES, only_loss, output_module
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream

LOGITS = "BCEWithLogitsLoss"
BATCHES = 3
"""Minimum number of measured batches of targets."""


@dataclass(frozen=True)
class OutputBiasPrior(Rule):
    """The last bias does not start at the mean of the targets, or at the frequencies of classes.

    ## What it detects
    For a cross entropy with one target for each sample, from the histogram of at least 256 targets:
    the entropy of the class frequencies is more than 0.5 nats below ln C, and the initial standard
    deviation of the last bias is below half of that of the logarithms of the frequencies. For
    binary cross entropy with logits: the first predictions are more than 4 away from the logarithm
    of the odds of the targets. For regression losses: the mean of the targets is more than two of
    their standard deviations away from the mean of the first predictions. It is a warning where the
    bias itself put them there: the distance is above ten standard deviations, and the bias starts
    within 30 % of the predictions and more than twice as far from zero as the targets. For classes
    it is a warning too if no layer has a bias and the loss stays above that of a constant.
    ## Why it matters
    The first steps only learn this constant, with large and common gradients through all layers. A
    bias that starts there removes the steep first part of the loss curve: a note. A bias that was
    set for other targets, as for those before a standardisation, is worse than one of zero.
    ## Evidence
    The difference between the two entropies and the bias; or mean and spread of the targets.
    ## What to do
    - Classes: set the bias to the logarithm of the class frequencies.
    - Regression: set the bias to the mean of the targets, or subtract the mean from the targets.
    - A model without any bias: give the last layer one, or the input a column of ones.
    ## When it is wrong
    A loss with class weights, for which equal logits are right; pretrained heads.
    ## References
    Karpathy, "A Recipe for Training Neural Networks", 2019 ("init well"); Lin et al., "Focal Loss
    for Dense Object Detection", 2017, arXiv:1708.02002, section 3.3.
    """

    code: ClassVar[str] = "TV704"
    stage: ClassVar[Stage] = Stage.INITIALISATION
    explains: ClassVar[frozenset[str]] = frozenset({"TV305", "TV501", "TV507", "TV701"})
    damages_loss: ClassVar[bool] = False
    permanent: ClassVar[bool] = True
    fix: ClassVar[str] = at(Moment.BEFORE_TRAINING, "remedies.initialise(model, targets=y_train)")
    refuted_by: ClassVar[str] = "The first loss is that of the class frequencies."

    saving_min: float = threshold(0.5, "ln C less the entropy of the class frequencies, in nats.")
    bias_share_max: float = threshold(
        0.5, "Standard deviation of the bias relative to that of the log frequencies."
    )
    targets_min: int = threshold(256, "Minimum number of targets in the histogram.")
    distance_max: float = threshold(
        2.0, "Mean of the targets from that of the predictions, in the targets' deviations."
    )

    logits_max: float = threshold(
        4.0, "Distance of the first logits from that of the share of targets that are 1."
    )
    distance_sure: float = threshold(
        10.0, "The same distance from which a bias that starts there is a warning."
    )
    steps_min: int = threshold(100, "Minimum number of steps of a model without any bias.")
    equal_min: float = threshold(
        0.95, "Entropy of the class frequencies over ln C, from which they count as equal."
    )
    level_min: float = threshold(
        1.1, "Its loss relative to that of the best constant prediction, for a warning."
    )
    own_share: float = threshold(
        0.3, "Largest distance of that bias from the predictions, as a share of theirs."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield at most one finding, at the bias of the output layer."""
        kind, bias = only_loss(history), _output_bias(history)
        if kind is None or len(kind.kinds) != 1:
            return
        if bias is None:
            if kind.kinds[0] in (LOGITS, "CrossEntropyLoss") and has_no_offset(history):
                yield from self._no_bias(history, max(2, kind.classes))
        elif kind.kinds[0] == LOGITS and kind.scale == 1 and kind.positive_weight <= 1:
            yield from self._binary(history, bias[0])
        elif kind.kinds[0] == "CrossEntropyLoss" and len(kind.target_shape) == 1:
            yield from self._classes(history, *bias)
        elif kind.kinds[0] in DISTANCES:
            yield from self._regression(history, bias[0])

    def _no_bias(self, history: History, classes: int) -> Iterator[Finding]:
        """Yield a finding for frequencies of classes that no parameter can represent."""
        course = Course(history)
        constant = course.exact_constant
        if constant is None or not constant > 0 or len(course.loss) < self.steps_min:
            return
        if constant > self.equal_min * math.log(classes):
            return  # without a bias, equal frequencies are represented
        level = course.now() / constant
        if not level > self.level_min or course.falling:
            return
        yield self._found(
            history,
            Place(output_module(history)),
            "Output bias: no layer has a bias that could represent the frequencies of the classes; "
            f"the loss is still {number(level)} times that of a constant prediction.",
            (
                Evidence(
                    quantity="loss divided by that of the best constant prediction",
                    seen=level,
                    limit=self.level_min,
                    direction="above",
                    statistic=Scalar.LOSS,
                ),
            ),
            "",  # the layer is in the program
            sure=True,
        )

    def _classes(self, history: History, place: Place, spread: float) -> Iterator[Finding]:
        events = [e for e in history.events if e.kind == EventKind.CLASS_HISTOGRAM]
        if not events:
            return
        counts = np.array([float(n) for n in events[-1].attributes.values()])
        classes = place.shape[0]
        if counts.sum() < self.targets_min or len(counts) > classes or classes < 2:
            return
        # Classes that were not seen count as one half.
        counts = np.maximum(np.r_[counts, np.zeros(classes - len(counts))], 0.5)
        prior = counts / counts.sum()
        saving = math.log(classes) + float((prior * np.log(prior)).sum())
        relative = spread / float(np.log(prior).std() or math.inf)
        if not (saving > self.saving_min and relative < self.bias_share_max):
            return
        yield self._found(
            history,
            place,
            f"Output bias: the classes are unequal (their frequencies alone would lower the first "
            f"loss by {number(saving)} nats), and {place.name} starts at about the same value for "
            "all.",
            (
                Evidence(
                    quantity="ln C less the entropy of the class frequencies",
                    seen=saving,
                    limit=self.saving_min,
                    direction="above",
                    healthy=(0.0, 0.2),
                    unit="nats",
                ),
                Evidence(
                    quantity="deviation of the bias relative to that of the log frequencies",
                    seen=relative,
                    limit=self.bias_share_max,
                    direction="below",
                    healthy=(0.8, 1.2),
                ),
            ),
            at(
                Moment.BEFORE_TRAINING,
                "frequency = torch.bincount(y_train.flatten(), minlength="
                f"{classes}).float().clamp_min(0.5)\n"
                f"with torch.no_grad():\n"
                f"    model.get_parameter({place.name!r}).copy_(frequency.log())",
            ),
        )

    def _binary(self, history: History, place: Place) -> Iterator[Finding]:
        """Yield a finding for logits that start far from the share of targets that are 1."""
        mean = history.scalar(Scalar.TARGET_MEAN).finite().values
        predicted = history.scalar(Scalar.PREDICTION_MEAN).finite()
        if len(mean) < BATCHES or len(predicted) == 0 or predicted.steps[0] > START:
            return
        share, first = float(mean.mean()), float(predicted.values[0])
        if not 0 < share < 1:
            return
        prior = math.log(share / (1 - share))
        if abs(prior - first) <= self.logits_max:
            return
        yield self._found(
            history,
            place,
            f"Output bias: {percent(share)} of the targets are 1, which is a logit of "
            f"{number(prior)}, and the first predictions have the mean {number(first)}.",
            (
                Evidence(
                    quantity="distance of the first logits from that of the share of targets",
                    seen=abs(prior - first),
                    limit=self.logits_max,
                    direction="above",
                    healthy=(0.0, 2.0),
                ),
            ),
            at(
                Moment.BEFORE_TRAINING,
                "share = y_train.float().mean().clamp(1e-6, 1 - 1e-6)\n"
                "with torch.no_grad():\n"
                f"    model.get_parameter({place.name!r}).fill_(torch.logit(share))",
            ),
        )

    def _regression(self, history: History, place: Place) -> Iterator[Finding]:
        mean, std, predicted = (
            history.scalar(name).finite()
            for name in (Scalar.TARGET_MEAN, Scalar.TARGET_STD, Scalar.PREDICTION_MEAN)
        )
        if len(mean) < 3 or len(std) < 3 or len(predicted) == 0 or predicted.steps[0] > START:
            return
        center, spread = middle(mean.values), middle(std.values)
        if not spread > 0:
            return
        first = float(predicted.values[0])
        distance = abs(center - first) / spread
        if not distance > self.distance_max:
            return
        row = history.places(Stream.WEIGHT).index(place)
        start = float(window(history, Stream.WEIGHT, Stat.MEAN, [row], first=1).values[0, 0])
        # A bias of zero would be nearer to the targets.
        is_own = abs(center) < abs(start) / 2
        is_own &= abs(start - first) <= self.own_share * abs(first - center)
        yield self._found(
            history,
            place,
            f"Output bias: the targets have the mean {number(center)} ± {number(spread)}, and the "
            f"first predictions {number(first)}"
            + (f", where {place.name} starts." if is_own else "."),
            (
                Evidence(
                    quantity="distance of the targets' mean from the first predictions'",
                    seen=distance,
                    limit=self.distance_max,
                    direction="above",
                    healthy=(0.0, 1.0),
                    unit="standard deviations",
                ),
            ),
            at(
                Moment.BEFORE_TRAINING,
                f"with torch.no_grad():\n"
                f"    model.get_parameter({place.name!r}).copy_(y_train.mean(0))",
            ),
            sure=is_own and distance > self.distance_sure,
        )

    def _found(
        self,
        history: History,
        place: Place,
        summary: str,
        evidence: tuple[Evidence, ...],
        fix: str | None,
        *,
        sure: bool = False,
    ) -> Finding:
        return self.finding(
            severity=Severity.WARNING if sure else Severity.INFO,
            where=place.name,
            since_step=int(history.steps(Stream.WEIGHT)[0]),
            summary=summary,
            evidence=evidence,
            fix=fix,
            confidence=0.8,
            stream=Stream.WEIGHT,
            statistic=Stat.MEAN,
        )

    @staticmethod
    def sick() -> History:
        """Return ten classes of which one has 90 % of the targets, and a bias near zero."""
        return _run([900, *[11] * 9], bias=0.05)

    @staticmethod
    def healthy() -> History:
        """Return ten equal classes."""
        return _run([100] * 10, bias=0.05)


def _output_bias(history: History) -> tuple[Place, float] | None:
    """Return (bias of the output layer, its initial standard deviation); None if unknown."""
    places = history.places(Stream.WEIGHT)
    rows = [i for i, p in enumerate(places) if p.kind == "bias" and "output" in p.flags]
    if len(rows) != 1:
        return None
    seen = window(history, Stream.WEIGHT, Stat.STD, rows, first=1)
    if len(seen.steps) == 0 or seen.steps[0] > START:
        return None
    return places[rows[0]], float(seen.values[0, 0])


def _run(counts: list[int], *, bias: float) -> History:
    place = Place("head.bias", "bias", (10,), 2, "head", "Linear", flags=("output",))
    history = Example(10).stream(Stream.WEIGHT, [place], {"head.bias": {Stat.STD: bias}}).history
    attributes: dict[str, str | float] = {"target_shape": "(32,)", "classes": 10.0}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", attributes))
    histogram: dict[str, str | float] = {str(i): float(n) for i, n in enumerate(counts)}
    history.add(Event(9, 0.0, EventKind.CLASS_HISTOGRAM, "10 classes in 8 batches", histogram))
    return history
