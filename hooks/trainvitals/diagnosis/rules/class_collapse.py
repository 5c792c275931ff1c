"""TV806: a classifier predicts one class for almost every sample, and the targets are diverse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import is_recurrent
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import middle, trailing_run
from trainvitals.diagnosis.supervision import (
    class_loss,
    has_class_head,
    loss_of_constant,
    shares_of_largest,
)
from trainvitals.wire import Event, EventKind, Place, Scalar, Stream

_UNWEIGHTED: Final = at(Moment.LOSS, "loss = F.cross_entropy(prediction, y)  # without weight=")


class _Collapse(NamedTuple):
    """The newest measured batches in a row whose predictions are one class."""

    since: int
    last: int
    """Step of the newest measured batch."""
    predicted: float
    """Share of the most frequent predicted class, median over these batches."""
    targets: float
    """Share of the most frequent class among the targets of a batch, median."""
    batches: int


@dataclass(frozen=True)
class ClassCollapse(Rule):
    """A classifier predicts one class for almost every sample, and the targets are diverse.

    ## What it detects
    In the newest eight or more measured batches, over at least 50 steps, 95 % or more of the
    samples have the same predicted class, and the largest class has at most 70 % of the targets.
    Up to eight newer batches with 60 % in one class, twice its targets, do not end it.
    Judged after 100 steps, and ten steps for each class. Left out: a loss that falls and is above
    half of that of a constant prediction, a loss that has not changed since the start (see
    `no_learning`), warm-up, losses other than one cross entropy, and targets of which a tenth is
    ignored.
    ## Why it matters
    The model ignores its input. If the loss is far below that of a constant prediction at the same
    time, it weighs the predicted class more than the others: the loss looks good, and the accuracy
    is that of a guess.
    ## Evidence
    The share of the predicted class, the share of the largest class among the targets, and the loss
    as a share of that of a constant prediction.
    ## What to do
    - Look at the class weights of the loss: they multiply the loss of a class, so a rare class has
      a large weight. Frequencies in place of their inverse do the opposite.
    - Look at the last layer: a bias that is far from the others decides alone.
    - Restart from a checkpoint before the step of the evidence, with a lower learning rate.
    ## When it is wrong
    A cost of errors that differs by orders of magnitude, on purpose.
    ## References
    Karpathy, "A Recipe for Training Neural Networks", 2019; He & Garcia, "Learning from Imbalanced
    Data", 2009, section 3.2 (cost-sensitive learning).
    """

    code: ClassVar[str] = "TV806"
    stage: ClassVar[Stage] = Stage.LOSS
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset({"TV502", "TV505", "TV701", "TV808"})
    needs: ClassVar[tuple[Need, ...]] = ()
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "The recall of a second class is above zero."

    predicted_min: float = threshold(0.95, "Share of the most frequent predicted class, 0 to 1.")
    uneven_min: float = threshold(
        0.6, "The same share in up to `batches_min` newer batches in which the collapse goes on."
    )
    targets_max: float = threshold(0.7, "Share of the largest class among the targets, 0 to 1.")
    batches_min: int = threshold(8, "Measured batches in a row with such predictions.")
    steps_collapsed: int = threshold(50, "Minimum number of steps from the first of them.")
    steps_min: int = threshold(100, "Minimum number of finished steps.")
    steps_min_recurrent: int = threshold(
        400, "The same of a recurrent network: it predicts one class until it finds the cue."
    )
    steps_for_each_class: int = threshold(10, "Minimum number of finished steps for each class.")
    constant_share: float = threshold(
        0.5,
        "Loss as a share of that of a constant prediction, below which the two do not fit and a "
        "weight of the predicted class is likely.",
    )
    stale_share: float = threshold(
        0.8,
        "Loss now as a share of that at the newest measured batch; below it, that is old, unless "
        "the loss was below `constant_share` there already.",
    )
    supervised_min: float = threshold(0.9, "Share of the targets that are supervised, 0 to 1.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        kind, course = class_loss(history), Course(history)
        if kind is None or not has_class_head(history, kind.classes):
            return
        least = max(self.steps_min, self.steps_for_each_class * kind.classes)
        if is_recurrent(history):
            least = max(least, self.steps_min_recurrent)
        if history.steps_seen < least:
            return
        collapse = self._collapse(history)
        if collapse is None or not course.known or course.warming_up or course.flat:
            return
        constant, now = loss_of_constant(history) or float("nan"), course.now(20)
        before = middle(course.loss.values[course.loss.steps <= collapse.last][-20:])
        # One class and a low loss at the same batch: only a weight of the class does that, and a
        # loss that falls further is that class learned better.
        was_weighted = bool(before < self.constant_share * constant)
        if now < self.stale_share * before and not was_weighted:
            return  # the loss has fallen since predictions were measured
        weighted = bool(now < self.constant_share * constant)
        if course.falling and not weighted:
            return
        what = "the input is ignored"
        if weighted:
            what = (
                f"the loss of {number(now)} is below that of a constant prediction "
                f"({number(constant)}), so it weighs this class more than the others"
            )
        yield self.finding(
            severity=Severity.WARNING,
            since_step=collapse.since,
            summary=f"Class collapse: since step {collapse.since}, {percent(collapse.predicted)} "
            f"of the samples of a batch have the same predicted class, and the largest class has "
            f"{percent(collapse.targets)} of the targets: {what}.",
            evidence=(
                Evidence(
                    quantity="share of the most frequent predicted class",
                    seen=collapse.predicted,
                    limit=self.predicted_min,
                    direction="above",
                    healthy=(0.0, 0.7),
                    unit="share",
                    statistic=Scalar.PREDICTED_MAJORITY_SHARE,
                ),
                Evidence(
                    quantity="share of the largest class among the targets",
                    seen=collapse.targets,
                    limit=self.targets_max,
                    direction="below",
                    unit="share",
                    statistic=Scalar.TARGET_MAJORITY_SHARE,
                ),
                Evidence(
                    quantity="loss as a share of that of a constant prediction",
                    seen=now / constant,
                    unit="share",
                ),
                Evidence(quantity="measured batches in a row", seen=float(collapse.batches)),
            ),
            fix=_UNWEIGHTED if weighted else "",
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.PREDICTED_MAJORITY_SHARE,
        )

    def _collapse(self, history: History) -> _Collapse | None:
        supervised = history.scalar(Scalar.SUPERVISED_SHARE).values
        if len(supervised) and middle(supervised[-self.batches_min :]) < self.supervised_min:
            return None
        steps, predicted, targets = shares_of_largest(history)
        collapsed = predicted >= self.predicted_min
        # After a jump the predictions can be those of two classes for some batches.
        uneven = ~collapsed & (predicted >= self.uneven_min) & (predicted >= 2 * targets)
        end = len(steps) - min(int(trailing_run(uneven)), self.batches_min)
        steps, predicted, targets = steps[:end], predicted[:end], targets[:end]
        run = int(trailing_run(collapsed[:end]))
        if run < self.batches_min or history.last_step - steps[-run] < self.steps_collapsed:
            return None
        share = middle(targets[-run:])
        if not share <= self.targets_max:
            return None
        return _Collapse(int(steps[-run]), int(steps[-1]), middle(predicted[-run:]), share, run)

    @staticmethod
    def sick() -> History:
        """Return predictions of one of ten classes, and 0.4 % of the loss of a constant one."""
        return _run(1.0, 2.3 * np.exp(-np.arange(160) / 10) + 0.01)

    @staticmethod
    def healthy() -> History:
        """Return the same predictions at the start of a run that then learns."""
        at_step = np.arange(160)
        return _run(np.where(at_step < 90, 1.0, 0.2), 2.3 - 0.01 * at_step)


def _run(predicted: Column, loss: Column) -> History:
    weight = Place("2.weight", kind="weight", shape=(10, 8), module="2", flags=("output",))
    history = (
        Example(160)
        .scalars(
            loss=loss,
            predicted_majority_share=predicted,
            target_majority_share=0.2,
            supervised_share=1.0,
        )
        .stream(Stream.WEIGHT, [weight], {})
        .history
    )
    kind: dict[str, str | float] = {"target_shape": "(32,)", "classes": 10.0}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", kind))
    return history
