"""TV807: the targets do not belong to the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course, validation_losses
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.mixed_dimensions import ADVICE, mixed_samples
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Array, middle
from trainvitals.diagnosis.supervision import BINARY_LOSSES, only_loss
from trainvitals.diagnosis.trained_before import trained_before
from trainvitals.wire import Event, EventKind, Scalar, Stream


class _Transfer(NamedTuple):
    """The split whose loss fell most, as a share of the loss of a constant prediction."""

    split: str
    evaluations: int
    best: float


@dataclass(frozen=True)
class LabelNoise(Rule):
    """The targets do not belong to the inputs, or hardly any of them does.

    ## What it detects
    One of three. (a) The training loss is below 70 % of the loss of the best constant prediction
    (the entropy of the class frequencies, or the variance of the targets), and after six
    evaluations or more no validation loss (medians of three) was below 97 % of it. Needs
    `monitor.loss(value, split="validation")` and a cross entropy or a squared error.
    (b) The distance correlation of the inputs and the targets of the first 256 or 512 measured
    samples is that of independent numbers (t below 4), and after 300 steps (60 % of the plan,
    at least 100, if that is less) the training loss is still at that of a constant prediction, or
    after three evaluations no validation loss was below 97 % of it. Needs a model with one input of
    floating-point numbers, no sequence of vectors, and one target for each sample; not with a
    target that is rare, above 80 % of one class. (c) The model mixes the samples of a batch, as
    shapes in its first training pass show: a recurrent or attention module without `batch_first`
    takes the samples as positions; a view stands where two dimensions had to be swapped; a softmax
    goes over the samples. Needs a model whose output has one row for each sample, and sizes that
    tell samples and positions apart. `trainvitals.checkup` also runs the model twice in eval mode,
    with the other samples replaced.
    ## Why it matters
    Without a relation between inputs and targets there is nothing to learn: a small model stays at
    the loss of a constant prediction, a large one memorises its training samples, and the training
    loss looks good. Shuffled or misaligned labels have this effect.
    ## Evidence
    (a) The best validation loss and the training loss, both as a share of the loss of a constant
    prediction, and the number of evaluations. (b) The t value and the loss.
    (c) The operation and the shapes.
    ## What to do
    - Look at ten random pairs of input and target as the training loop sees them.
    - Check what sorts, shuffles, filters or joins inputs and targets separately.
    - Check that validation and training use the same classes, units and preprocessing.
    - There is no code for (a) and (b): only your data contain the right pairs of input and target.
    - (c) `batch_first=True`; `x.transpose(0, 1)` instead of `x.view(times, samples, -1)`;
      `softmax(dim=1)`.
    ## When it is wrong
    Far too few samples for the task; a validation set from another source. (b) A dependence that
    no distance between whole inputs shows, such as the parity of bits or one feature of hundreds.
    (c) A model that compares the samples of a batch on purpose.
    ## References
    Székely and Rizzo, "The distance correlation t-test of independence in high dimension", 2013;
    Zhang et al., "Understanding Deep Learning Requires Rethinking Generalization", 2017,
    arXiv:1611.03530; Northcutt et al., "Confident Learning", 2021, arXiv:1911.00068.
    """

    code: ClassVar[str] = "TV807"
    stage: ClassVar[Stage] = Stage.DATA
    damages_loss: ClassVar[bool] = False
    before_training: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV502", "TV506"})
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "A metric on validation data is clearly better than chance."

    evaluations_min: int = threshold(6, "Minimum number of evaluations.")
    learned_max: float = threshold(
        0.7, "Training loss now as a share of the loss of a constant prediction."
    )
    transfer_min: float = threshold(
        0.97, "Lowest validation loss as a share of the loss of a constant prediction."
    )
    same_unit: float = threshold(
        3.0, "Maximum factor of the first validation loss to the loss of a constant prediction."
    )

    independent_max: float = threshold(
        4.0, "t value of the distance correlation from which the targets depend on the inputs."
    )
    steps_min: int = threshold(100, "Minimum number of finished steps with independent targets.")
    plan_share: float = threshold(
        0.6, "Share of the planned steps to wait for, if that is more: a loss can fall late."
    )
    steps_max: int = threshold(300, "Maximum number of steps to wait for; those without a plan.")
    constant_min: float = threshold(
        0.95, "Training loss now as a share of the loss of a constant prediction, when not learned."
    )
    constant_falling: float = threshold(
        0.97, "The same for a loss that falls: it may have begun to leave the constant."
    )
    evaluations_min_independent: int = threshold(
        3, "Minimum number of evaluations with independent targets."
    )
    majority_max: float = threshold(
        0.8, "Share of the most frequent class above which few samples cannot show a dependence."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        if (mixed := mixed_samples(history)) is not None:
            yield self.finding(
                severity=Severity.ERROR,
                since_step=mixed.since,
                summary=f"The model mixes the samples of a batch: {mixed.text}.",
                evidence=(mixed.evidence,),
                where=mixed.where,
                fix=mixed.fix,
                advice=ADVICE,
                confidence=0.9,
                stage=Stage.WIRING,
                stream=Stream.SCALAR,
                statistic=Scalar.LOSS,
            )
            return
        course = Course(history)
        constant = course.exact_constant
        if not course.known or not constant or len(course.loss) < self.evaluations_min:
            return
        if (found := self._independent(history, course, constant)) is not None:
            yield found
            return
        seen = self._transfer(history, constant, self.evaluations_min)
        learned = course.now(20) / constant
        if seen is None or seen.best < self.transfer_min or learned > self.learned_max:
            return
        yield self.finding(
            severity=Severity.WARNING,
            since_step=int(course.loss.steps[0]),
            summary=f"Label noise: the training loss is {number(course.shown(course.now(20)))}, "
            f"but in {seen.evaluations} evaluations the {seen.split} loss was never below "
            f"{percent(seen.best)} of the loss of a constant prediction "
            f"({number(course.shown(constant))}).",
            evidence=(
                Evidence(
                    quantity=f"lowest {seen.split} loss as a share of a constant prediction's",
                    seen=seen.best,
                    limit=self.transfer_min,
                    direction="above",
                    healthy=(None, 0.9 * self.transfer_min),
                    unit="share",
                ),
                Evidence(
                    quantity="training loss as a share of a constant prediction's",
                    seen=learned,
                    limit=self.learned_max,
                    direction="below",
                    unit="share",
                ),
                Evidence(
                    quantity="evaluations",
                    seen=float(seen.evaluations),
                    limit=float(self.evaluations_min),
                    direction="above",
                ),
            ),
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _independent(self, history: History, course: Course, constant: float) -> Finding | None:
        """Return a finding for targets that no distance between inputs predicts."""
        t = history.scalar(Scalar.INPUT_TARGET_DEPENDENCE).finite().values
        if len(t) == 0 or abs(t[-1]) >= self.independent_max or not self._is_balanced(history):
            return None
        if trained_before(history, course.initial):
            return None
        now = course.now(20) / constant
        seen = self._transfer(history, constant, self.evaluations_min_independent)
        level = now >= (self.constant_falling if course.falling else self.constant_min)
        level &= len(course.loss) >= self._steps_min(history)
        if seen is not None:
            level = seen.best >= self.transfer_min
        if not level:
            return None
        learned = f"the training loss ({number(course.shown(course.now(20)))}) is still at that"
        if seen is not None:
            learned = f"the {seen.split} loss was never below {percent(seen.best)} of that"
        return self.finding(
            severity=Severity.WARNING,
            since_step=int(course.loss.steps[0]),
            summary="Label noise: the targets show no dependence on the inputs (distance "
            f"correlation, t = {number(float(t[-1]))}), and {learned} of a constant prediction "
            f"({number(course.shown(constant))}).",
            evidence=(
                Evidence(
                    quantity="t value of the distance correlation of inputs and targets",
                    seen=float(t[-1]),
                    limit=self.independent_max,
                    direction="below",
                    healthy=(10.0, None),
                    statistic=Scalar.INPUT_TARGET_DEPENDENCE,
                ),
                Evidence(
                    quantity="training loss as a share of a constant prediction's",
                    seen=now,
                    limit=self.constant_min,
                    direction="above",
                    unit="share",
                ),
            ),
            confidence=0.7,
            # Ranked after a cause of another kind that leaves the loss at that of a constant too.
            stage=Stage.LOSS,
            # The chart of the finding: the loss has a course, the t value two points.
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _steps_min(self, history: History) -> float:
        """Return the number of steps before which a loss can stay level and fall later."""
        planned = self.plan_share * (history.total_steps or math.inf)
        return max(self.steps_min, min(planned, self.steps_max))

    def _is_balanced(self, history: History) -> bool:
        """Whether the targets are numbers, or no class is so frequent that the others are rare."""
        shares = history.scalar(Scalar.TARGET_MAJORITY_SHARE).finite().values
        if len(shares):
            return middle(shares) <= self.majority_max
        kind = only_loss(history)
        mean = history.scalar(Scalar.TARGET_MEAN).finite().values
        if kind is None or {*kind.kinds}.isdisjoint(BINARY_LOSSES):
            return True
        return len(mean) > 0 and abs(middle(mean) - 0.5) <= self.majority_max - 0.5

    def _transfer(self, history: History, constant: float, least: int) -> _Transfer | None:
        """Return the split whose loss fell lowest; None without `least` evaluations."""
        found = []
        for split, series in validation_losses(history):
            if len(series) < max(3, least) or not self._fits(series, constant):
                continue
            values = series.values.astype(np.float64)
            smooth = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
            found.append(_Transfer(split, len(values), float(smooth.min()) / constant))
        return min(found, key=lambda f: f.best, default=None)

    def _fits(self, series: Series, constant: float) -> bool:
        return 0 < float(series.values[0]) <= self.same_unit * constant

    @staticmethod
    def sick() -> History:
        """Return a training loss that falls to 0.1 and a validation loss that rises from ln 10."""
        return _run(np.linspace(2.303, 2.593, 30))

    @staticmethod
    def healthy() -> History:
        """Return a validation loss that rises as far, after it fell to 80 % of ln 10."""
        return _run(1.84 + 0.05 * np.abs(np.arange(30) - 5.0))


def _run(validation: Array) -> History:
    """Return 300 steps of a classifier of ten classes, with one evaluation in every tenth."""
    every = np.full(300, np.nan)
    every[9::10] = validation
    training = 0.1 + 2.2 * np.exp(-np.arange(300) / 60)
    history = Example(300).scalars(loss=training, loss__validation=every).history
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", {"classes": 10.0}))
    return history
