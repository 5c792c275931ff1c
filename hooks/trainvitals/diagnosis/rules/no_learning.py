"""TV501: the loss stays at its initial value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import FIRST, PROGRESS_MIN, Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import ZERO_BACKWARD_STEP, higher_rate
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.likelihood import likelihood
from trainvitals.diagnosis.loss_parts import loss_parts
from trainvitals.diagnosis.places import starts_slowly
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, block_means, middle, trend
from trainvitals.diagnosis.supervision import class_loss, has_class_head
from trainvitals.diagnosis.trained_before import trained_before
from trainvitals.diagnosis.update_ratio import update_ratios
from trainvitals.wire import Scalar, Stat, Stream

SMALL_UPDATE: Final = 3e-4
"""Median update ratio RMS(ΔW)/RMS(W) below which the steps are too small to learn in a short run;
healthy runs have 1e-3 to 1e-2."""


@dataclass(frozen=True)
class NoLearning(Rule):
    """The loss has not fallen since the start.

    ## What it detects
    After at least 100 steps, the median of the newest 50 losses is within 2 % of the median of
    the first 10 losses or within the noise, has no downward trend, and was never much lower or
    higher in between. Or, after 200 steps (100, or 60 % of the plan, if that is less), a
    classifier whose loss began above the entropy of the class frequencies is still within 2 %
    of it: it predicts the frequencies. So are sums of losses and likelihoods near that of a
    constant prediction. Or the loss has fallen by less than 1 % in 300 steps,
    with a noise below 1 %. Excluded: losses of unknown scale, warm-up, runs that have
    converged (also before they were watched), models that were trained before (the initial loss
    is clearly below that of the best constant prediction), losses with a noise above 7 % of
    their initial level, and those that fall within their noise since the start. A network with
    recurrent layers or convolutions over time is judged after 300 steps, or after three quarters of
    the planned steps if that is earlier. The finding ends when the loss is 30 % below its start and
    not above that of a constant, however long that took. It is an error if a torch optimizer is
    known and has never stepped.
    ## Why it matters
    The run uses compute, but the model does not learn. The cause is usually the initialisation,
    the wiring of model and optimizer, the learning rate or the data. A finding about one of these
    explains this finding and is shown above it.
    ## Evidence
    The loss at the start and now, its noise, and the minimum fall that is expected.
    ## What to do
    - Overfit one batch. If that fails, check the wiring; if it works, check the data and the
      learning rate.
    - Try 10 times and 0.1 times the learning rate for some hundred steps.
    - Check that each input has its own target.
    - There is code only if the updates are small; otherwise the causes need different changes.
    ## When it is wrong
    With adversarial losses (GANs) and bootstrapped targets, the loss stays level while the model
    learns. The loss of a fine-tuned model can be at its minimum from the start; it is recognised
    only for the usual losses of classes and numbers.
    ## References
    Karpathy, "A Recipe for Training Neural Networks", 2019; Zhang et al., "AutoTrainer", 2021,
    arXiv:2102.09784.
    """

    code: ClassVar[str] = "TV501"
    stage: ClassVar[Stage] = Stage.LOSS
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = ""
    ends_with_learning: ClassVar[bool] = True
    refuted_by: ClassVar[str] = "A metric on held-out data improves."

    steps_min: int = threshold(100, "Minimum number of finished steps.")
    steps_min_sequence: int = threshold(
        300,
        "Minimum number of finished steps of a network with recurrent layers or convolutions over "
        "time: its loss often stays level at "
        "first, until the gradient through time finds the cue.",
    )
    plan_share_early: float = threshold(
        0.6,
        "Share of the planned steps after which other networks are judged, if that is later than "
        "`steps_min`: a loss can stay level for a while before it falls.",
    )
    plan_share: float = threshold(
        0.75, "Share of the planned steps after which such a network is judged, 0 to 1."
    )
    steps_min_creeping: int = threshold(
        300, "Minimum number of steps of a loss that falls, but by less than `creeping_max`."
    )
    creeping_max: float = threshold(0.01, "That fall, and the noise, as shares of the start.")
    steps_min_constant: int = threshold(
        200,
        "Minimum number of steps of a classifier whose loss fell to that of a constant; without a "
        "recurrent part `plan_share_early` of the planned steps if that is less.",
    )
    balanced_min: float = threshold(
        0.9, "Minimum entropy of the classes, as a share of ln(classes), for that comparison."
    )
    constant_min: float = threshold(
        0.98, "Loss now as a share of that of the best prediction that ignores the input."
    )
    constant_max: float = threshold(1.06, "The same, above which the loss is of another kind.")
    p_max: float = threshold(
        0.05, "Maximum p-value of a downward trend since the start, where the noise is above 2 %."
    )
    loss_low: float = threshold(
        1e-3, "A loss that starts below this value and stays there had already converged."
    )

    @property
    def steps_needed(self) -> int:
        """Number of steps after which the loss is checked."""
        return self.steps_min

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course = Course(history)
        # A learning rate that rose within the newest 50 steps has not taken effect yet.
        if len(course.loss) < self._steps_min(history) or course.warming_up or course.converged:
            return
        if course.initial < self.loss_low or trained_before(history, course.initial):
            return
        level = course.flat and not self._falls_in_noise(course)
        if not (level or self._only_frequencies(history, course) or self._creeps(course)):
            return
        several = float(history.facts.get("optimizers", 1))
        start, now = course.initial, course.now()
        steps = int(course.loss.steps[-1])
        # A likelihood falls while only the mean and the variance of all targets are learned.
        idle, scale = _idle_optimizer(history), likelihood(history)
        yield self.finding(
            # With several optimizers (GANs), one loss is weak evidence.
            severity=Severity.ERROR if idle else Severity.INFO if several > 1 else Severity.WARNING,
            since_step=int(course.loss.steps[0]),
            summary=f"No learning: the loss was {number(course.shown(start), 4)} at the start and "
            f"is {number(course.shown(now), 4)} after {steps + 1} steps"
            + ("" if scale is None else f"; a constant prediction has {number(scale.constant, 4)}")
            + (f"; the optimizer ({idle}) never stepped." if idle else "."),
            evidence=(
                Evidence(
                    quantity="fall of the loss since the start",
                    seen=start - now,
                    limit=course.band,
                    direction="below",
                    healthy=(course.band, None),
                    unit=course.unit,
                    text="2 % of the initial loss, or 0.9 times its noise",
                ),
                Evidence(quantity="loss now", seen=course.shown(now)),
                Evidence(quantity="loss at the start", seen=course.shown(start)),
                Evidence(
                    quantity="noise of the loss from step to step",
                    seen=course.noise,
                    unit=course.unit,
                ),
            ),
            fix=ZERO_BACKWARD_STEP if idle else _fix(history),
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _steps_min(self, history: History) -> float:
        if not starts_slowly(history):
            planned = self.plan_share_early * (history.total_steps or 0)
            return max(self.steps_min, min(planned, self.steps_min_sequence))
        planned = self.plan_share * (history.total_steps or math.inf)
        return max(self.steps_min, min(self.steps_min_sequence, planned))

    def _creeps(self, course: Course) -> bool:
        """Whether a loss with little noise has fallen by less than 1 % in many steps."""
        if not course.known or len(course.loss) < self.steps_min_creeping:
            return False
        start = middle(course.loss.values[:FIRST])
        small = course.noise < self.creeping_max * start
        return small and abs(start - course.now()) < self.creeping_max * start

    def _only_frequencies(self, history: History, course: Course) -> bool:
        """Whether a classifier, a sum of losses or a likelihood began above its constant and stays
        at it.
        """
        kind, constant = class_loss(history), course.exact_constant
        if kind is None and not (loss_parts(history) or likelihood(history)):
            return False
        if not course.known:
            return False
        # In a contrastive loss the classes are samples.
        if kind is not None and not has_class_head(history, kind.classes):
            return False
        planned = self.plan_share_early * (history.total_steps or math.inf)
        least: float = self.steps_min_constant
        if not starts_slowly(history):
            least = max(self.steps_min, min(least, planned))
        if not constant or len(course.loss) < least:
            return False
        if kind is not None and constant < self.balanced_min * math.log(kind.classes):
            return False  # the frequencies of rare classes are not known well enough
        before = course.loss.values[-len(course.loss) // 2 :][:20]
        if course.falling and course.now(20) < (1 - self.creeping_max) * middle(before):
            return False
        # A weighted loss has another scale. The frequencies of few batches have less entropy than
        # those of the data.
        near = self.constant_min <= course.now() / constant <= self.constant_max
        return course.initial > constant and near

    def _falls_in_noise(self, course: Course) -> bool:
        """Whether the whole course has a downward trend, where the noise hides the fall.

        With batches of a few samples, a fall of twice what is expected lies within the noise.
        """
        if course.band <= PROGRESS_MIN * middle(course.loss.values[:FIRST]):
            return False
        p, slope = trend(block_means(course.loss.values, 10))
        return bool(p < self.p_max and slope < 0)

    @staticmethod
    def sick() -> History:
        """Return a loss that stays at ln 10."""
        return Example(150).scalars(loss=2.303 + _noise(150, 0.02)).history

    @staticmethod
    def healthy() -> History:
        """Return a loss with the noise of small batches that falls slowly."""
        return Example(400).scalars(loss=np.linspace(2.303, 1.6, 400) + _noise(400, 0.3)).history


def _idle_optimizer(history: History) -> str:
    """Return the class of the known optimizer if none has stepped; "": one has, or is not known.

    Its steps record the norm of the gradients and, unless they are switched off, the statistics.
    """
    facts = history.facts
    if not float(facts.get("optimizers", 0)) > 0 or f"{Stream.UPDATE}_off" in facts:
        return ""
    measured = ((Stream.UPDATE, Stat.RMS), (Stream.GRADIENT, Stat.L2), (Stream.WEIGHT, Stat.L2))
    if len(history.scalar(Scalar.GRADIENT_NORM)) or any(
        np.isfinite(history.values(stream, statistic)).any() for stream, statistic in measured
    ):
        return ""
    return str(facts.get("optimizer", ""))


def _fix(history: History) -> str:
    """Return a higher learning rate if the updates are small; otherwise a person must decide."""
    ratios = update_ratios(history).values
    usual = middle(ratios) if len(ratios) else float("nan")
    return higher_rate(usual) if 0 < usual < SMALL_UPDATE else ""


def _noise(n: int, std: float) -> Floats:
    return np.random.default_rng(0).normal(0, std, n)
