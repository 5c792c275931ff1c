"""TV503: the loss had fallen, rises to a higher level, and stays there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import for_each_group
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.loss_parts import no_term_is_worse
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, median, noise
from trainvitals.diagnosis.supervision import target_growth
from trainvitals.wire import Scalar, Stream


class _Shift(NamedTuple):
    """A lasting rise of the loss."""

    step: int
    before: float
    now: float
    best: int
    """The last step of the window with the best level."""


@dataclass(frozen=True)
class LossDivergence(Rule):
    """The loss had fallen, has risen to a higher level, and stays there.

    ## What it detects
    The loss had fallen by 30 % of its initial value or more. Then it rose, and each of the newest
    20 losses is above the best level (median of 20 losses in a row) by a quarter of the initial
    loss and by three times the noise before the rise. Their median is at least twice the best
    level. Losses of unknown scale are left out. A note only: with several optimizers, if the loss
    is a sum and no term is worse than before relative to its own constant prediction, or if the
    targets grew gradually with the loss, by 40 % or more, as bootstrapped targets do (Q-learning,
    value functions), and never to more than three times their size within ten measured batches. The
    targets are seen in `mse_loss`, `smooth_l1_loss`, `huber_loss` and their modules, and in
    `monitor.loss(value, target=...)`; a difference that the program squares itself hides them: set
    `watch(loss_falls=False)` there.
    ## Why it matters
    The model has lost what it had learned. The steps from the rise on are wasted, unless the loss
    comes back by itself.
    ## Evidence
    The rise as a share of the initial loss, the best level, the level now, and the step at which
    the loss left the best level.
    ## What to do
    - Restore the checkpoint before the rise, and continue with a third of the learning rate.
    - After a resume: load the states of model, optimizer and scheduler; `strict=True`.
    - Check the batches at that step, and whether the data changed there.
    ## When it is wrong
    A change of the task or of the loss at that step: a curriculum, new data, a new loss weight.
    ## References
    Chowdhery et al., "PaLM", 2022, arXiv:2204.02311, section 5.1; Page, "Continuous Inspection
    Schemes", 1954; Mnih et al., "Human-level Control through Deep Reinforcement Learning", 2015
    (targets that the model computes).
    """

    code: ClassVar[str] = "TV503"
    stage: ClassVar[Stage] = Stage.LOSS
    explains: ClassVar[frozenset[str]] = frozenset({"TV502", "TV505"})
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = for_each_group("['lr'] /= 3")
    refuted_by: ClassVar[str] = "The task, the data or the weight of a loss changed at that step."

    steps_held: int = threshold(20, "Newest losses, each of which is above the limit.")
    fall_min: float = threshold(
        0.3, "Fall of the loss before the rise, as a share of the initial loss."
    )
    rise_min: float = threshold(0.25, "Rise of the loss, as a share of the initial loss.")
    factor_min: float = threshold(2.0, "Loss now divided by the best level.")
    noise_factor: float = threshold(3.0, "Rise as a multiple of the noise before it.")
    term_factor: float = threshold(
        1.25, "A term of a sum relative to its constant, divided by the best such value."
    )
    target_growth: float = threshold(
        1.4, "RMS of the targets now, divided by before: from this value on the rise is a note."
    )
    jump_max: float = threshold(
        3.0, "Growth within ten measured batches, above which the data changed instead."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course = Course(history)
        if not course.known or not course.initial > 0:
            return
        shift = self._shift(course.loss, course.initial)
        if shift is None:
            return
        rise = (shift.now - shift.before) / course.initial
        several = float(history.facts.get("optimizers", 1)) > 1
        grown = target_growth(history, shift.best, self.jump_max)
        kept = several or no_term_is_worse(history, self.term_factor)
        yield self.finding(
            # With several optimizers (GANs), one loss may rise because the other falls; with
            # bootstrapped targets, the error grows with the values that the model has learned.
            severity=Severity.INFO if kept or grown >= self.target_growth else Severity.WARNING,
            since_step=shift.step,
            summary="Loss divergence: the loss had fallen from "
            f"{number(course.shown(course.initial))} to {number(course.shown(shift.before))}, rose "
            f"at step {shift.step} and is {number(course.shown(shift.now))} now.",
            evidence=(
                Evidence(
                    quantity="rise of the loss as a share of its initial value",
                    seen=rise,
                    limit=self.rise_min,
                    direction="above",
                    healthy=(None, self.rise_min / 2),
                    unit="share",
                ),
                Evidence(
                    quantity="loss now divided by the best level",
                    seen=shift.now / max(shift.before, 1e-30),
                    limit=self.factor_min,
                    direction="above",
                    unit="times",
                ),
                Evidence(quantity="best level of the loss", seen=course.shown(shift.before)),
                Evidence(quantity="loss now", seen=course.shown(shift.now)),
                Evidence(
                    quantity="fall before the rise",
                    seen=1 - shift.before / course.initial,
                    limit=self.fall_min,
                    direction="above",
                    unit="share",
                    text=f"{percent(1 - shift.before / course.initial)} of the initial loss",
                ),
                *_of_targets(grown, self.target_growth),
            ),
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _shift(self, loss: Series, initial: float) -> _Shift | None:
        held = self.steps_held
        values = loss.values.astype(np.float64)
        if len(values) < 3 * held:
            return None
        before = values[:-held]
        levels = median(np.lib.stride_tricks.sliding_window_view(before, held), axis=1)
        at = int(np.argmin(levels))
        best, newest = float(levels[at]), values[-held:]
        if best > (1 - self.fall_min) * initial:
            return None
        spread = noise(before[max(0, at - held) : at + held])
        limit = best + max(self.rise_min * initial, self.noise_factor * spread)
        now = float(np.median(newest))
        if float(newest.min()) < limit or now < self.factor_min * best:
            return None
        # The first step from which the loss is above the limit up to now.
        low = np.flatnonzero(values <= limit)
        onset = int(low[-1]) + 1 if len(low) else 0
        return _Shift(int(loss.steps[onset]), best, now, int(loss.steps[at + held - 1]))

    @staticmethod
    def sick() -> History:
        """Return a loss that falls to 0.2 and is 2.2 from step 120 on."""
        return _run(np.where(np.arange(160) < 120, _falling(160), 2.2))

    @staticmethod
    def healthy() -> History:
        """Return a loss that jumps to 2.2 for ten steps and comes back."""
        step = np.arange(160)
        return _run(np.where((step >= 120) & (step < 130), 2.2, _falling(160)))


def _of_targets(grown: float, limit: float) -> tuple[Evidence, ...]:
    """Return the growth of the targets as evidence; empty if they did not grow gradually."""
    if not grown > 1:
        return ()
    quantity = "gradual growth of the targets since the best level"
    return (Evidence(quantity=quantity, seen=grown, limit=limit, direction="below", unit="times"),)


def _falling(n: int) -> Floats:
    smooth: Floats = 2.1 * np.exp(-np.arange(n) / 30) + 0.2
    return smooth


def _run(loss: Column) -> History:
    return Example(len(np.asarray(loss))).scalars(loss=loss).history
