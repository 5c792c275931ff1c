"""TV609: the learning rate is at the end of its schedule long before the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import block_means, middle, trailing_run, trend
from trainvitals.wire import Scalar, Stream


@dataclass(frozen=True)
class ScheduleEndedEarly(Rule):
    """The learning rate has fallen to almost zero long before the planned end of the run.

    ## What it detects
    The largest learning rate of all parameter groups has been at most 1/1000 of its maximum for 10
    steps in a row, and this began before 80 % of the planned steps (`watch(total_steps=…)`); or,
    without a plan, it has been so for half of all steps, at least 100. The loss was still falling
    when the rate ended, or has not fallen at all; before half of the planned steps this is not
    required. Converged runs are left out.
    ## Why it matters
    The rest of the run changes nothing: it costs compute, and the model stays where the schedule
    left it. No error and no jump in the loss shows it.
    ## Evidence
    The learning rate now as a share of its maximum, and the share of the planned steps at which the
    schedule ended.
    ## What to do
    - Give the scheduler the number of optimizer steps that you plan (`T_max`, `total_steps`).
    - Call `scheduler.step()` once per epoch if its constants are meant for epochs.
    - After a resume, check that the scheduler's state was loaded.
    ## When it is wrong
    Schedules that rest at almost zero for a while on purpose and rise again.
    ## References
    PyTorch documentation, torch.optim.lr_scheduler; Loshchilov & Hutter, "SGDR: Stochastic Gradient
    Descent with Warm Restarts", 2017, arXiv:1608.03983.
    """

    code: ClassVar[str] = "TV609"
    stage: ClassVar[Stage] = Stage.OPTIMIZER
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV501", "TV806", "TV502", "TV507", "TV603", "TV601", "TV602", "TV607"}
    )
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = at(
        Moment.BEFORE_TRAINING,
        "scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)",
    )
    refuted_by: ClassVar[str] = "The learning rate rises again before the end of the run."

    rate_share: float = threshold(1e-3, "Learning rate as a share of its maximum in this run.")
    steps_low: int = threshold(10, "Steps in a row at or below this share, with a known plan.")
    plan_share: float = threshold(
        0.8, "Share of the planned steps; a schedule may end after this point."
    )
    plan_share_certain: float = threshold(
        0.5, "Share of the planned steps before which an end is always reported."
    )
    steps_low_without_plan: int = threshold(
        100, "Steps in a row at or below the share if the number of steps is not known."
    )
    share_without_plan: float = threshold(
        0.5, "Share of the steps so far with such a rate if the number of steps is not known."
    )
    fall_min: float = threshold(
        0.01, "Fall of the loss in the half before the end, as a share, that counts as falling."
    )
    p_max: float = threshold(0.05, "Maximum p-value of the trend of the loss before the end.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course = Course(history)
        rate = course.learning_rate
        if len(rate) == 0 or not course.known or course.converged:
            return
        largest = float(rate.values.max())
        run = int(trailing_run(rate.values <= self.rate_share * largest))
        if largest <= 0 or run < self.steps_low or run == len(rate):
            return
        since = int(rate.steps[-run])
        planned = history.total_steps
        if planned:
            share, limit = since / planned, self.plan_share
            if share > limit:
                return
        else:
            # History thins old steps: count steps, not points.
            low, steps = history.last_step - since + 1, history.last_step + 1
            share, limit = since / steps, 1 - self.share_without_plan
            if low < self.steps_low_without_plan or share > limit:
                return
        certain = planned and share <= self.plan_share_certain
        if not certain and course.learned() and not self._was_falling(course.loss, since):
            return
        yield self._finding(
            since, float(rate.values[-1]), largest, share, planned, history.last_step
        )

    def _was_falling(self, loss: Series, since: int) -> bool:
        """Whether the loss fell in the second half of the steps before `since`."""
        before = loss.values[loss.steps < since].astype(np.float64)
        half = before[len(before) // 2 :]
        if len(half) < 4:
            return False
        blocks = block_means(half, 10)
        p, slope = trend(blocks)
        third = max(1, len(half) // 3)
        fall = 1 - middle(half[-third:]) / max(middle(half[:third]), 1e-30)
        return bool(p < self.p_max and slope < 0 and fall > self.fall_min)

    def _finding(
        self, since: int, rate: float, largest: float, share: float, planned: int | None, last: int
    ) -> Finding:
        of = f"of {planned:,} planned steps" if planned else f"of {last + 1:,} steps so far"
        return self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=f"Schedule ended early: since step {since} {of} the learning rate is "
            f"{number(rate)}, at most {number(self.rate_share)} of its maximum "
            f"{number(largest)}.",
            evidence=(
                Evidence(
                    quantity="learning rate as a share of its maximum",
                    seen=rate / largest,
                    limit=self.rate_share,
                    direction="below",
                    healthy=(2 * self.rate_share, None),
                    statistic=Scalar.LEARNING_RATE,
                ),
                Evidence(
                    quantity="end of the schedule",
                    seen=share,
                    limit=self.plan_share if planned else 1 - self.share_without_plan,
                    direction="below",
                    unit="share",
                    text=f"{percent(share)} {of}",
                ),
            ),
            confidence=0.95 if planned else 0.7,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    @staticmethod
    def sick() -> History:
        """Return a cosine schedule over 40 of 400 steps, and a loss that was still falling."""
        step = np.minimum(np.arange(120), 40)
        return _run(1e-3 * (0.5 + 0.5 * np.cos(np.pi * step / 40)), step)

    @staticmethod
    def healthy() -> History:
        """Return two decays by ten each, after which the loss still falls."""
        step = np.arange(120)
        return _run(1e-3 * 0.1 ** (step // 40), step)


def _run(rate: Column, learned_steps: Column) -> History:
    loss = 2.3 * np.exp(-np.asarray(learned_steps, np.float64) / 60)
    example = Example(len(loss), total_steps=400)
    return example.scalars(loss=loss, learning_rate__0=rate).history
