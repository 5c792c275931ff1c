"""TV807: the model fits the training samples and does not generalise to others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course, validation_losses
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Array
from trainvitals.wire import Event, EventKind, Scalar, Stream


class _Transfer(NamedTuple):
    """The split whose loss fell most, as a share of the loss of a constant prediction."""

    split: str
    evaluations: int
    best: float


@dataclass(frozen=True)
class LabelNoise(Rule):
    """The training loss falls, and the validation loss never falls below that of a constant.

    ## What it detects
    Needs `monitor.loss(value, split="validation")` and a cross entropy or a squared error. The
    training loss is below 70 % of the loss of the best constant prediction (the entropy of the
    class frequencies, or the variance of the targets), and after six evaluations or more no
    validation loss (medians of three) was below 97 % of it.
    ## Why it matters
    The model has only memorised its training samples, and does not generalise to others. Shuffled
    or misaligned labels have this effect, and the training loss looks good.
    ## Evidence
    The best validation loss and the training loss, both as a share of the loss of a constant
    prediction, and the number of evaluations.
    ## What to do
    - Look at ten random pairs of input and target as the training loop sees them.
    - Check what sorts, shuffles, filters or joins inputs and targets separately.
    - Check that validation and training use the same classes, units and preprocessing.
    - There is no code for it: only your data contain the right pairs of input and target.
    ## When it is wrong
    Far too few samples for the task; a validation set from another source.
    ## References
    Zhang et al., "Understanding Deep Learning Requires Rethinking Generalization", 2017,
    arXiv:1611.03530; Northcutt et al., "Confident Learning", 2021, arXiv:1911.00068.
    """

    code: ClassVar[str] = "TV807"
    stage: ClassVar[Stage] = Stage.DATA
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset({"TV506"})
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

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course = Course(history)
        constant = course.exact_constant
        if not course.known or not constant or len(course.loss) < self.evaluations_min:
            return
        seen = self._transfer(history, constant)
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
                    statistic=Scalar.LOSS,
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

    def _transfer(self, history: History, constant: float) -> _Transfer | None:
        """Return the split whose loss fell lowest; None without enough evaluations."""
        found = []
        for split, series in validation_losses(history):
            if not self._fits(series, constant):
                continue
            values = series.values.astype(np.float64)
            smooth = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
            found.append(_Transfer(split, len(values), float(smooth.min()) / constant))
        return min(found, key=lambda f: f.best, default=None)

    def _fits(self, series: Series, constant: float) -> bool:
        enough = len(series) >= max(3, self.evaluations_min)
        return enough and 0 < float(series.values[0]) <= self.same_unit * constant

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
