"""TV805: one class has most of the targets, and the loss weighs all samples alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent, times
from trainvitals.diagnosis.class_weights import class_counts, reversed_weights
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import BALANCED, Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import initial_loss
from trainvitals.diagnosis.rare_label import rare_label
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import median, middle
from trainvitals.diagnosis.supervision import (
    class_loss,
    has_class_head,
    only_loss,
    output_module,
)
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream

_EARLY: Final = 10
_FIRST: Final = 3
"""The first measured batches of several classes, before step `_EARLY`: the predictions are still
close to uniform."""


class _Classes(NamedTuple):
    """The targets of the measured batches."""

    step: int
    classes: int
    targets: float
    majority: float
    """Share of the largest class."""
    factor: float
    """Largest class over the median of the others, an upper estimate of which is used."""
    entropy: float
    """Nats: the loss of a prediction of the class frequencies alone."""


@dataclass(frozen=True)
class ClassImbalance(Rule):
    """One class has most of the targets, and the loss weighs all samples alike.

    ## What it detects
    From the histogram of the targets of a cross entropy over at least 8 measured batches: the
    largest class has more than ten times the targets of the median of the other classes. It is a
    note. It is a warning if there are three classes or more, one target for each sample and a
    share of 75 % or more, and the first gradients of the last bias pull towards the majority as
    strongly as an unweighted loss does; or if the loss of the newest 100 steps stays at the entropy
    of the class frequencies: the model predicts the frequencies and ignores its input; or if it
    predicted one class for every sample of the newest 12 measured batches, three of which had
    several classes. Of a binary cross entropy it is a warning if `pos_weight`, or the smallest of
    one for each label, makes the positive targets together weigh more than 100 times the others.
    One label for each sample that is more than ten times rarer than its opposite is a note.
    It is a warning too if the weights of the classes grow with their frequencies.
    ## Why it matters
    The loss of the rare classes hardly counts: a model that never predicts them has a small loss
    and a high accuracy.
    ## Evidence
    The share of the largest class, its factor over the median class, and the entropy.
    ## What to do
    - `nn.CrossEntropyLoss(weight=…)`, or a `WeightedRandomSampler`.
    - Judge the model by its recall of each class, not by its accuracy.
    - Set the last bias to the logarithm of the class frequencies.
    ## When it is wrong
    Where the frequencies are those of the application and the rare classes need no better recall.
    Class weights are recognised by the gradient of the last bias; without a bias it is a note only.
    ## References
    He & Garcia, "Learning from Imbalanced Data", 2009; Lin et al., "Focal Loss for Dense Object
    Detection", 2017, arXiv:1708.02002.
    """

    code: ClassVar[str] = "TV805"
    stage: ClassVar[Stage] = Stage.DATA
    before_training: ClassVar[bool] = True
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV502", "TV701", "TV806"})
    fix: ClassVar[str] = BALANCED
    refuted_by: ClassVar[str] = "The recall of each rare class is as good as that of the largest."

    factor_max: float = threshold(
        10.0, "Targets of the largest class divided by those of the median of the other classes."
    )
    majority_min: float = threshold(0.75, "Share of the largest class, 0 to 1, for a warning.")
    batches_min: int = threshold(8, "Minimum number of measured batches in the histogram.")
    classes_min: int = threshold(3, "Minimum number of classes for a warning from the gradient.")
    pull_min: float = threshold(
        0.85, "Gradient of the majority's bias, divided by that of an unweighted loss."
    )
    uniform_max: float = threshold(
        1.5, "First loss relative to that of equal probabilities, for a warning from the gradient."
    )
    entropy_tolerance: float = threshold(
        0.1, "Distance of the loss from the entropy of the class frequencies, as a share of it."
    )
    weight_max: float = threshold(
        100.0, "Weight of all positive targets relative to the others, by `pos_weight`."
    )
    weight_factor: float = threshold(
        2.0, "Most frequent over rarest class, of the targets and of the class weights."
    )
    batches_single: int = threshold(12, "Newest measured batches with one predicted class each.")
    batches_mixed: int = threshold(3, "Minimum number of them whose targets have several classes.")
    loss_share: float = threshold(0.5, "Minimum loss for it, over the entropy and the loss then.")
    steps_collapsed: int = threshold(
        100, "Newest steps for which the loss must have been at the entropy of the frequencies."
    )

    def _positive(self, history: History) -> Iterator[Finding]:
        """Yield a finding of a `pos_weight` that has no relation to the frequencies."""
        kind = only_loss(history)
        share = history.scalar(Scalar.TARGET_MEAN).finite().values
        if kind is None or kind.positive_weight <= 0 or len(share) < self.batches_min:
            return
        positive = float(share.mean())
        ratio = kind.positive_weight * positive / max(1 - positive, 1e-9)
        if not 0 < positive < 1 or ratio <= self.weight_max:
            return
        balance = (1 - positive) / positive
        yield self.finding(
            severity=Severity.WARNING,
            where=output_module(history),
            since_step=kind.step,
            summary=f"Class weights: {percent(positive)} of the targets are 1 and weigh "
            f"{times(ratio)} as much as the others, by pos_weight = "
            f"{number(kind.positive_weight)}; {number(balance)} balances them.",
            evidence=(
                Evidence(
                    quantity="weight of all positive targets relative to the others",
                    seen=ratio,
                    limit=self.weight_max,
                    direction="above",
                    healthy=(0.1, 10.0),
                ),
                Evidence(quantity="pos_weight", seen=kind.positive_weight),
            ),
            fix=at(
                Moment.LOSS,
                "balance = (1 - y_train).sum(0) / y_train.sum(0).clamp_min(1)\n"
                "loss = F.binary_cross_entropy_with_logits(prediction, y, pos_weight=balance)",
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MEAN,
        )

    def _one_label(self, history: History) -> Iterator[Finding]:
        """Yield a note for one label for each sample that is rare, or nearly always true."""
        seen = rare_label(history, batches_min=self.batches_min, ratio_max=self.factor_max)
        if seen is None:
            return
        weight = f"pos_weight=torch.tensor({(1 - seen.share) / seen.share:.3g})"
        loss = f"loss = F.binary_cross_entropy_with_logits(prediction, y, {weight})"
        yield self.finding(
            severity=Severity.INFO,
            where=output_module(history),
            since_step=seen.step,
            summary=f"Class imbalance: {percent(seen.share)} of the targets are 1, and the loss "
            "weighs all samples alike.",
            evidence=(
                Evidence(
                    quantity="targets of the frequent label over those of the rare one",
                    seen=seen.ratio,
                    limit=self.factor_max,
                    direction="above",
                    healthy=(1.0, self.factor_max / 2),
                ),
            ),
            fix=at(Moment.LOSS, loss) if seen.is_of_logits else "",
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MEAN,
        )

    def _reversed(self, history: History) -> Finding | None:
        """Return a finding of class weights that grow with the frequencies."""
        seen = reversed_weights(
            history, batches_min=self.batches_min, factor_min=self.weight_factor
        )
        if seen is None:
            return None
        return self.finding(
            severity=Severity.WARNING,
            where=output_module(history),
            since_step=seen.step,
            summary=f"Class weights: the most frequent class has {times(seen.frequency)} as many "
            f"targets as the rarest, and the loss gives it {times(seen.weight)} the weight; "
            "weights that balance the classes are the inverse of their frequencies.",
            evidence=(
                Evidence(
                    quantity="weight of the most frequent class over that of the rarest",
                    seen=seen.weight,
                    limit=self.weight_factor,
                    direction="above",
                    healthy=(None, 1.0),
                ),
                Evidence(quantity="targets of one over those of the other", seen=seen.frequency),
                Evidence(
                    quantity="correlation of the logarithms of weights and frequencies",
                    seen=seen.correlation,
                ),
            ),
            fix=at(
                Moment.LOSS,
                "counts = torch.bincount(y_train).clamp_min(1)\n"
                "weight = len(y_train) / (len(counts) * counts)\n"
                "loss = F.cross_entropy(prediction, y, weight=weight)",
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MAJORITY_SHARE,
        )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        kind = class_loss(history)
        if kind is None:
            yield from [*self._positive(history)] or self._one_label(history)
            return
        if (turned := self._reversed(history)) is not None:
            yield turned
            return
        seen = self._classes(history)
        if (
            seen is None
            or seen.factor <= self.factor_max
            or not has_class_head(history, seen.classes)
        ):
            return
        pull = self._pull(history, seen)
        # Pixels and tokens have rare classes by nature.
        plain = len(kind.target_shape) == 1
        unweighted = plain and seen.majority >= self.majority_min and pull >= self.pull_min
        unweighted &= seen.classes >= self.classes_min and self._starts_uniform(history)
        collapsed = self._collapsed(history, seen) if plain else 0.0
        single = plain and self._predicts_one(history, seen.entropy)
        what = ""
        if collapsed:
            what = (
                f", and the loss stays at {number(collapsed)}, the entropy of the class "
                f"frequencies ({number(seen.entropy)}): the input is ignored"
            )
        elif single:
            what = (
                f", and in the newest {self.batches_single} measured batches the model predicted "
                "one class for every sample"
            )
        elif unweighted:
            what = ", and the loss weighs all samples alike"
        yield self.finding(
            severity=Severity.WARNING if unweighted or collapsed or single else Severity.INFO,
            since_step=seen.step,
            summary=f"Class imbalance: {percent(seen.majority)} of {number(seen.targets)} targets "
            f"have one of {seen.classes} classes{what}.",
            evidence=(
                Evidence(
                    quantity="largest class over the median of the others",
                    seen=seen.factor,
                    limit=self.factor_max,
                    direction="above",
                    healthy=(1.0, self.factor_max / 2),
                ),
                Evidence(
                    quantity="share of the largest class",
                    seen=seen.majority,
                    unit="share",
                    statistic=Scalar.TARGET_MAJORITY_SHARE,
                ),
                Evidence(quantity="pull of the last bias towards it", seen=pull),
                Evidence(quantity="entropy of the class frequencies", seen=seen.entropy),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MAJORITY_SHARE,
        )

    def _starts_uniform(self, history: History) -> bool:
        """Whether the first loss is about that of equal probabilities, which the pull assumes."""
        start = initial_loss(history)
        return start is None or start.seen <= self.uniform_max * start.expected

    def _classes(self, history: History) -> _Classes | None:
        known = class_counts(history)
        if known is None or known[1] < self.batches_min:
            return None
        step, _, counts = known
        if counts.sum() <= 0 or len(counts) < 2:
            return None
        largest = float(counts.max())
        others = np.delete(counts, int(np.argmax(counts)))
        usual = float(np.median(others))
        # Two standard errors: a class that was seen three times may be six times as frequent.
        factor = largest / (usual + 2 * np.sqrt(usual) + 1)
        shares = counts[counts > 0] / counts.sum()
        entropy = float(-(shares * np.log(shares)).sum())
        return _Classes(
            step,
            len(counts),
            float(counts.sum()),
            largest / float(counts.sum()),
            float(factor),
            entropy,
        )

    def _pull(self, history: History, seen: _Classes) -> float:
        """Return the early pull of the last bias, in units of an unweighted loss; NaN if unknown.

        The gradient of a class's bias is the mean of (probability − target). A weighted loss pulls
        towards each class of the batch alike.
        """
        rows = [
            i
            for i, p in enumerate(history.places(Stream.GRADIENT))
            if p.kind == "bias" and "output" in p.flags and p.shape == (seen.classes,)
        ]
        share, classes = (
            history.scalar(n) for n in (Scalar.TARGET_MAJORITY_SHARE, Scalar.TARGET_CLASSES)
        )
        steps = history.steps(Stream.GRADIENT)
        if len(rows) != 1 or len(share) != len(classes) or len(share) == 0:
            return float("nan")
        mixed = share.steps[(classes.values > 1) & (share.steps < _EARLY)]
        _, at, there = np.intersect1d(steps, mixed, return_indices=True)
        if len(at) == 0:
            return float("nan")
        at, there = at[:_FIRST], there[:_FIRST]
        low = history.values(Stream.GRADIENT, Stat.MIN)[at, rows[0]].astype(np.float64)
        majority = share.values[np.searchsorted(share.steps, mixed[there])]
        return float(median(-low / np.maximum(majority - 1 / seen.classes, 1e-6))[()])

    def _predicts_one(self, history: History, entropy: float) -> bool:
        """Whether the newest batches had one predicted class each, which the loss may refute."""
        n, loss = self.batches_single, Course(history).loss
        predicted = history.scalar(Scalar.PREDICTED_CLASSES)
        targets = history.scalar(Scalar.TARGET_CLASSES)
        if len(predicted) < n or len(targets) < n or history.last_step < self.steps_collapsed:
            return False
        mixed = int((targets.values[-n:] > 1).sum())
        if mixed < self.batches_mixed or (predicted.values[-n:] != 1).any():
            return False
        # Not the median: batches without a rare class have a small loss anyway.
        then = loss.since(int(predicted.steps[-n])).values[: self.steps_collapsed]
        newest = loss.values[-self.steps_collapsed // 2 :]
        return not newest.mean() < self.loss_share * max(entropy, float(then.mean()))

    def _collapsed(self, history: History, seen: _Classes) -> float:
        """Return the loss if it has fallen to the entropy and stays there; otherwise 0."""
        course = Course(history)
        newest = course.loss.values[-self.steps_collapsed :]
        if not course.known or len(newest) < self.steps_collapsed or course.falling:
            return 0.0
        halves = [middle(half) for half in np.array_split(newest, 2)]
        above = 1 + 3 * self.entropy_tolerance
        if course.initial <= above * seen.entropy:
            return 0.0  # the last bias started at the frequencies
        near = all(h >= (1 - self.entropy_tolerance) * seen.entropy for h in halves)
        near &= halves[1] <= above * seen.entropy
        return halves[1] if near else 0.0

    @staticmethod
    def sick() -> History:
        """Return 96 % of one of ten classes, and the gradient of an unweighted loss."""
        return _run(-0.86)

    @staticmethod
    def healthy() -> History:
        """Return three classes of which one has half of the targets."""
        return _run(-0.3, counts=(160.0, 80.0, 80.0))


def _run(pull: float, counts: tuple[float, ...] = (307.0, *[1.0] * 9)) -> History:
    bias = Place("2.bias", kind="bias", shape=(len(counts),), module="2", flags=("output",))
    total = sum(counts)
    history = (
        Example(20)
        .scalars(
            loss=2.3 * np.exp(-np.arange(20) / 10),
            target_majority_share=np.full(20, max(counts) / total),
            target_classes=np.full(20, 3.0),
        )
        .stream(Stream.WEIGHT, [bias], {})
        .stream(Stream.GRADIENT, [bias], {"2.bias": {Stat.MIN: pull}})
        .history
    )
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", {"target_shape": "(32,)"}))
    for batches in (1, 8):
        given: dict[str, str | float] = {str(i): n for i, n in enumerate(counts)}
        text = f"{len(counts)} classes in {batches} batches"
        history.add(Event(batches, 0.0, EventKind.CLASS_HISTOGRAM, text, given))
    return history
