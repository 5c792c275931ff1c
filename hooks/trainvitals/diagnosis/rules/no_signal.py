"""TV107: a loss is reported and every gradient is zero, or all rewards of each group are equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.constant_norms import constant_norm
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History, Steps
from trainvitals.diagnosis.places import called
from trainvitals.diagnosis.post_training import Quantity, is_solved, logged, name_of
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, trailing_run
from trainvitals.diagnosis.supervision import DOWNSTREAM
from trainvitals.wire import Scalar, Stat, Stream


@dataclass(frozen=True)
class NoSignal(Rule):
    """The gradients of all parameters are exactly zero: the loss does not depend on the model.

    ## What it detects
    (1) The total gradient norm is exactly 0 in each of the newest 20 steps, while a finite loss is
    reported, and the loss has not fallen to its minimum before. 10 steps are enough if the program
    logs the spread of its rewards or its clipped share.
    (2) In a policy gradient, the rewards of each group are equal (`reward_std` 0, or
    `equal_groups_share` 1) in the newest 10 logged steps: the gradients that remain are those of
    the KL divergence and the entropy. Both cases are silent if the reward has risen to its best
    level: the task is solved.
    (3) The outputs of a LayerNorm, GroupNorm or InstanceNorm are all equal in the first three
    measured steps, up to rounding, while its inputs differ and its scale is not 0.
    ## Why it matters
    No weight moves, except by weight decay and momentum. Typical causes: all rewards or advantages
    of a batch are equal, everything is clipped, the loss is multiplied by 0, or a hinge is
    satisfied from the start. A norm over a single value (`LayerNorm(1)`, one channel in each group
    without positions) subtracts it from itself: the result is the bias, whatever the input is.
    ## Evidence
    The gradient norm, the number of steps with 0, and the loss; or the spread of the rewards.
    ## What to do
    Follow the factors between the loss and the output: print rewards, advantages, masks and
    weights of one batch. The first that is constant or 0 is the cause.
    There is no code for it: the factor is in rewards, masks or weights of your program.
    ## When it is wrong
    Rewards that are still rare. A loss of 0 with gradients is not reported: in GRPO it is usual.
    ## References
    Shao et al., "DeepSeekMath" (group-relative advantages), 2024, arXiv:2402.03300.
    """

    code: ClassVar[str] = "TV107"
    stage: ClassVar[Stage] = Stage.WIRING
    damages_loss: ClassVar[bool] = False
    # A rate that was too high can be why there is no signal now, never the reverse.
    explains: ClassVar[frozenset[str]] = (
        DOWNSTREAM - {"TV107", "TV305", "TV601", "TV604", "TV606"}
    ) | {"TV603"}
    needs: ClassVar[tuple[Need, ...]] = (Stream.GRADIENT,)
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "A gradient is not zero after loss.backward()."

    steps_min: int = threshold(20, "Newest steps in a row with a gradient norm of exactly 0.")
    observations: int = threshold(3, "First measured steps with equal outputs of a norm.")
    told_min: int = threshold(
        10, "The same, and steps with equal rewards, if the program logs rewards or clipping."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        if is_solved(history, self.told_min):
            return
        found = (
            self._constant_norm(history)
            or self._zero_gradient(history)
            or self._equal_rewards(history)
        )
        if found is not None:
            yield found

    def _constant_norm(self, history: History) -> Finding | None:
        place = constant_norm(history, self.observations)
        if place is None:
            return None
        return self.finding(
            severity=Severity.ERROR,
            where=place.name,
            since_step=int(history.steps(Stream.ACTIVATION)[0]),
            summary=f"No signal: {called(place)} ({place.kind}) has the same output for every "
            "sample, although its inputs differ: it normalises over a single value.",
            evidence=(
                Evidence(
                    quantity="standard deviation of its outputs",
                    seen=0.0,
                    limit=0.0,
                    direction="below",
                    healthy=(1e-3, None),
                    text="up to rounding",
                    statistic=Stat.STD,
                ),
            ),
            confidence=0.95,
            stream=Stream.ACTIVATION,
            statistic=Stat.STD,
        )

    def _zero_gradient(self, history: History) -> Finding | None:
        norm = history.scalar(Scalar.GRADIENT_NORM)
        loss = history.scalar(Scalar.LOSS).finite()
        told = any(
            name_of(history, q)
            for q in (Quantity.REWARD_STD, Quantity.EQUAL_GROUPS_SHARE, Quantity.CLIPPED_SHARE)
        )
        steps_min = self.told_min if told else self.steps_min
        if len(norm) < steps_min or not (norm.values[-steps_min:] == 0).all():
            return None
        moved = np.flatnonzero(norm.values != 0)
        start = int(moved[-1]) + 1 if len(moved) else 0
        since = int(norm.steps[start])
        course = Course(history)
        # A hinge that is satisfied, or a perfect fit in low precision.
        if len(loss.since(since)) < steps_min or (start and course.learned()):
            return None
        if start and course.converged:
            return None
        steps = len(norm) - start
        return self.finding(
            severity=Severity.ERROR,
            since_step=since,
            summary=f"No signal: every gradient has been exactly 0 in the {steps} steps since step "
            f"{since}, with a loss of {number(float(loss.values[-1]))}{_source(history)}.",
            evidence=(
                Evidence(
                    quantity="total gradient norm",
                    seen=0.0,
                    limit=0.0,
                    direction="below",
                    healthy=(1e-30, None),
                    text="some gradient is not zero",
                    statistic=Scalar.GRADIENT_NORM,
                ),
                Evidence(
                    quantity="steps in a row",
                    seen=float(steps),
                    limit=float(steps_min),
                    direction="above",
                ),
                Evidence(quantity="loss", seen=float(loss.values[-1])),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.GRADIENT_NORM,
        )

    def _equal_rewards(self, history: History) -> Finding | None:
        steps = _steps_with_equal_rewards(history)
        if len(steps) < self.told_min:
            return None
        reward = logged(history, Quantity.REWARD)
        level = f" (mean reward {number(float(reward.values[-1]))})" if len(reward) else ""
        return self.finding(
            severity=Severity.ERROR,
            since_step=int(steps[0]),
            summary=f"No signal: the rewards of each group are equal in {len(steps)} logged steps "
            f"since step {int(steps[0])}{level}, so every advantage is 0.",
            evidence=(
                Evidence(
                    quantity="logged steps in a row with equal rewards",
                    seen=float(len(steps)),
                    limit=float(self.told_min),
                    direction="above",
                    healthy=(None, self.told_min - 1.0),
                ),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=_name_of_spread(history),
        )

    @staticmethod
    def sick() -> History:
        """Return a policy gradient whose advantages are all 0."""
        return _run(np.zeros(30))

    @staticmethod
    def healthy() -> History:
        """Return rare rewards: a gradient in one of ten steps."""
        return _run(np.where(np.arange(30) % 10 == 0, 0.5, 0.0))


def _name_of_spread(history: History) -> str:
    return name_of(history, Quantity.EQUAL_GROUPS_SHARE) or name_of(history, Quantity.REWARD_STD)


def _steps_with_equal_rewards(history: History) -> Steps:
    """Return the newest logged steps in a row in which no group has different rewards.

    The share of equal groups decides where it is logged: the spread can be that of a batch.
    """
    share = logged(history, Quantity.EQUAL_GROUPS_SHARE)
    spread = logged(history, Quantity.REWARD_STD)
    series = share if len(share) else spread
    equal = series.values >= 1 if len(share) else series.values == 0
    return series.steps[len(series) - int(trailing_run(equal)) :]


def _source(history: History) -> str:
    """Return the cause of a zero gradient that the logged scalars show, as an end of a sentence."""
    if len(_steps_with_equal_rewards(history)):
        return ": the rewards of each group are equal"
    clipped = logged(history, Quantity.CLIPPED_SHARE).values
    if len(clipped) and clipped[-1] >= 1:
        return ": the ratio of every token is clipped"
    if len(logged(history, Quantity.REWARD_STD)):
        return "; the rewards differ, so a mask, a weight or a detached term is the cause"
    return ""


def _run(norm: Floats) -> History:
    return Example(len(norm)).scalars(loss=np.zeros(len(norm)), gradient_norm=norm).history
