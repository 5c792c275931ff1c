"""The course of the loss and of the learning rate, for the conditions of the rules.

Comes in: a history.
Goes out: a `Course`: whether the loss has fallen, is flat or has converged, and whether the
          learning rate is in its warm-up.
Promise:  each answer is False if the loss is unknown, or has no lower bound and is no likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TypeVar

import numpy as np

from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.likelihood import likelihood
from trainvitals.diagnosis.post_training import optimises_reward
from trainvitals.diagnosis.signals import block_means, middle, noise, trend
from trainvitals.diagnosis.supervision import (
    loss_of_constant,
    target_growth,
    usual_loss_of_constant,
)
from trainvitals.wire import Scalar, Stat, Stream

FIRST = 10
LAST = 50
ACCURACY_DONE = 0.99
LOSS_DONE = 0.01
"""Share of the initial loss, or of a constant's loss if that is lower, below which a run has
converged."""
PROGRESS_MIN = 0.02
"""Share of the initial loss; a smaller fall is not learning. A classifier's loss starts 1 to 2 %
above the loss of a uniform prediction, because its first logits differ, and falls by this much
without learning anything."""
EXPLOSION = 5.0
"""Within the first ten losses, a loss above this multiple of the first is an explosion."""
RECOVERY = 0.3
"""Share of the initial loss: a run with a fault from the start has recovered after this fall."""
LOST_MAX = 0.1
"""Share of the run's steps: a fault that cost less has no lasting damage."""
CONSTANT_STEPS, CONSTANT_SHARE = 150, 0.95
"""For losses with more noise than `NOISE_MAX`: minimum steps, and share of a constant's loss."""
TARGET_DRIFT_MAX = 0.15
"""Logarithm of the RMS of the targets now over that at the start."""
NOISE_MAX = 0.07
"""Share of the initial loss: a loss with more noise is near its minimum, or no evidence."""
LEVEL_SHARE, LEVEL_CHANGE = 0.2, 0.05
"""Level as a share of the initial loss, and fall from the third to the last quarter of the run."""
SETTLED_SHARE = 0.6
"""Share of the fall of the loss that came between the first and the second fifth of the run."""


T = TypeVar("T")


def _shared(method: Callable[[Course], T]) -> cached_property[T]:
    """Make a property that is computed once for a course, and once in an examination for all."""

    @wraps(method)
    def read(course: Course) -> T:
        return course.history.once((Course, method.__name__), lambda: method(course))

    return cached_property(read)


@dataclass(frozen=True)
class Course:
    """The course of one run up to now."""

    history: History

    @_shared
    def loss(self) -> Series:
        """The training loss at the steps at which it is finite, from 0 up.

        That of a likelihood is its level (`Likelihood`), and so are all values of this class;
        `shown` gives the loss of a level.
        """
        return on_scale_of_loss(self.history, self.history.scalar(Scalar.LOSS))

    def shown(self, level: float) -> float:
        """Return a value of `loss` in the unit in which the program reports its loss."""
        scale = likelihood(self.history)
        return level if scale is None else scale.loss(level)

    @_shared
    def unit(self) -> str:
        """The unit of a difference between two values of `loss`; "" for that of the loss."""
        return "" if likelihood(self.history) is None else "of a constant prediction's"

    @_shared
    def known(self) -> bool:
        """Whether there is a loss with a lower bound of 0: never negative, at least once above
        zero, not declared with `watch(loss_falls=False)`, and no policy gradient.

        Losses of policy gradients and critics have no lower bound: their level is no evidence of
        learning. That of a likelihood is, if the loss of a constant prediction is known.
        """
        if not self.may_be_judged:
            return False
        values = self.loss.values
        return len(values) > 0 and float(values.min()) >= 0 and float(values.max()) > 0

    @_shared
    def may_be_judged(self) -> bool:
        """Whether the loss is expected to fall: not with `watch(loss_falls=False)`, and not in
        a policy gradient that logs its rewards."""
        return self.history.facts.get("loss_falls") != 0 and not optimises_reward(self.history)

    @_shared
    def initial(self) -> float:
        """The loss at the start: median of the first 10, or of the first 3 if that is lower.

        If the loss explodes within these steps, the first loss.
        """
        values = self.loss.values[:FIRST]
        if len(values) == 0:
            return float("nan")
        if float(values.max()) > EXPLOSION * float(values[0]) > 0:
            return float(values[0])
        return min(middle(values), middle(values[:3]))

    @_shared
    def noise(self) -> float:
        """The standard deviation of the loss from step to step, over the newest 200 steps."""
        return noise(self.loss.values[-200:])

    @_shared
    def erratic(self) -> bool:
        """Whether the noise of the loss is more than half of its level."""
        return self.noise > 0.5 * abs(self.now())

    def now(self, last: int = LAST) -> float:
        """Return the median of the newest losses."""
        return self.history.once((Course.now, last), lambda: middle(self.loss.values[-last:]))

    @_shared
    def band(self) -> float:
        """Largest random deviation from the initial loss: 2 % of it, or 0.9 times the noise.

        0.9 times the noise is two standard errors of the difference between a median of 10 and a
        median of 50.
        """
        return max(PROGRESS_MIN * middle(self.loss.values[:FIRST]), 0.9 * self.noise)

    @_shared
    def falling(self) -> bool:
        """Whether the newest half of the loss (10 to 500 steps) has a downward trend."""
        values = self.loss.values
        newest = values[-min(500, max(10, len(values) // 2)) :]
        p, slope = trend(block_means(newest, 10))
        return bool(p < 0.05 and slope < 0)

    @_shared
    def flat(self) -> bool:
        """Whether the loss has neither fallen nor risen more than its noise since the start.

        With a noise above NOISE_MAX: `at_constant`.
        """
        values = self.loss.values
        if not self.known or len(values) < FIRST + LAST:
            return False
        start, band = middle(values[:FIRST]), self.band
        if self.noise > NOISE_MAX * start:
            return self.at_constant
        if self.falling:
            return False
        blocks = [middle(part) for part in np.array_split(values, min(20, len(values) // 25))]
        # A loss that was far below its start has shown learning, regardless of its current value; a
        # loss that was far above it varies, as with bootstrapped targets.
        varied = max(abs(start - block) for block in blocks) > 3 * band
        return bool(not varied and abs(start - self.now()) < band)

    @_shared
    def level_off(self) -> bool:
        """Whether the loss hardly falls any more at more than a fifth of its start.

        Its last quarter is at most 5 % below the third; False with fewer than 100 losses.
        """
        if not self.known or len(self.loss) < 2 * LAST:
            return False
        before, newest = block_means(self.loss.values, 4)[2:]
        high = newest > LEVEL_SHARE * self.initial
        return bool(high and newest > (1 - LEVEL_CHANGE) * before)

    @_shared
    def at_constant(self) -> bool:
        """Whether the loss stays at that of the best constant prediction, where noise hides more.

        After 150 steps, the mean of the newer half is at 95 % of it or above, and there is no
        downward trend since the start. Not for targets that grew or shrank, as bootstrapped ones.
        """
        values = self.loss.values.astype(np.float64)
        if not self.known or len(values) < CONSTANT_STEPS:
            return False
        p, slope = trend(block_means(values, 10))
        level = float(values[len(values) // 2 :].mean())
        if self.constant is None or level < CONSTANT_SHARE * self.constant:
            return False
        if p < 0.05 and slope < 0:
            return False
        drift = math.log(target_growth(self.history, 0, math.inf))
        return abs(drift) < TARGET_DRIFT_MAX

    def learned(self, share: float = 0.05, last: int = 20) -> bool:
        """Return whether the loss has fallen by `share` of its start and by more than its noise."""
        values = self.loss.values
        if not self.known or len(values) < FIRST:
            return False
        last = min(last, max(5, len(values) // 2))
        gain = self.initial - self.now(last)
        return bool(gain > max(share * self.initial, 2 * self.noise / last**0.5))

    @_shared
    def has_learned(self) -> bool:
        """Whether the loss is clearly below its start and not above that of a constant."""
        highest = math.inf if self.constant is None else 1.05 * self.constant
        return self.now(20) <= highest and self.learned(share=RECOVERY)

    @_shared
    def converged(self) -> bool:
        """Whether the loss is near 0 or an accuracy near 1: stagnation is then no fault."""
        start = min(self.initial, math.inf if self.constant is None else self.constant)
        if self.known and len(self.loss) >= FIRST and self.now(20) < LOSS_DONE * start:
            return True
        return any(
            middle(accuracy.values[-20:]) >= ACCURACY_DONE
            for name in self.history.scalar_names()
            if "acc" in name.lower() and len(accuracy := self.history.scalar(name)) >= FIRST
        )

    @_shared
    def constant(self) -> float | None:
        """The loss of the best constant prediction; see `usual_loss_of_constant`."""
        constant = usual_loss_of_constant(self.history)
        return 1.0 if constant is not None and likelihood(self.history) else constant

    @_shared
    def exact_constant(self) -> float | None:
        """The same where it does not depend on the shape of the targets' distribution."""
        return self.constant if loss_of_constant(self.history) is not None else None

    def recovered(self, since: int, last: int | None = None) -> bool:
        """Return whether the damage of a fault that held from step `since` to `last` is undone.

        The loss is back at the best level before `since`, within its noise; after a fault from the
        start, it is clearly below the initial loss and not above the loss of a constant prediction.
        And the steps that were lost until then are less than `LOST_MAX` of the run. True if there
        is no loss, or a loss without a lower bound. `last` is by default `since`.
        """
        loss = self.loss
        if not self.known or len(loss) < FIRST or self.converged:
            return True
        last = since if last is None else last
        before = loss.values[loss.steps < since]
        if len(before) >= 2 * FIRST:
            parts = np.array_split(before, min(20, len(before) // FIRST))
            best = min(middle(part) for part in parts)
            level = best + max(PROGRESS_MIN * best, 2 * self.noise)
            if self.now(20) > level:
                return False
            last = self._back_at(level, last)
        else:
            if not self.has_learned:
                return False
        return last - since + 1 < LOST_MAX * (self.history.last_step - int(loss.steps[0]) + 1)

    def _back_at(self, level: float, after: int) -> int:
        """Return the first step after `after` with a median of 20 losses at `level` or below."""
        later = self.loss.steps > after
        steps, values = self.loss.steps[later], self.loss.values[later]
        for end in range(20, len(values), 20):
            if middle(values[end - 20 : end]) <= level:
                return int(steps[end - 20])
        return int(steps[-1]) if len(steps) else after

    @_shared
    def learning_rate(self) -> Series:
        """The largest learning rate of all parameter groups, at each step."""
        rows = [
            row
            for row, place in enumerate(self.history.places(Stream.SCALAR))
            if place.name.startswith(f"{Scalar.LEARNING_RATE}/")
        ]
        steps = self.history.steps(Stream.SCALAR)
        if not rows:
            return Series(steps[:0], np.empty(0, np.float32))
        values = self.history.values(Stream.SCALAR, Stat.VALUE)[:, rows]
        known = ~np.isnan(values).all(axis=1)
        return Series(steps[known], np.fmax.reduce(values[known], axis=1))

    @_shared
    def warming_up(self) -> bool:
        """Whether the learning rate rose during the newest 50 steps, by more than 2 %."""
        values = self.learning_rate.values[-50:]
        return len(values) > 1 and float(values[-1]) > 1.02 * float(values.min())

    @_shared
    def cooling_down(self) -> bool:
        """Whether the learning rate is below a tenth of its maximum: the end of a schedule."""
        values = self.learning_rate.values
        return len(values) > 0 and float(values[-1]) < 0.1 * float(values.max())


def settled(course: Course) -> bool:
    """Whether the loss fell at first and has been level since: the rate was high enough for that.

    The fall from the first to the second fifth of the run is most of the whole, and more than the
    noise: the model learned the frequencies, and nothing else, as with labels at random.
    """
    parts = block_means(course.loss.values, 5)
    if len(parts) < 5:
        return False
    error = course.noise * (5 / len(course.loss)) ** 0.5
    early, whole = float(parts[0] - parts[1]), float(parts[0] - parts[-1])
    return whole > 3 * error and early > SETTLED_SHARE * whole


def on_scale_of_loss(history: History, losses: Series) -> Series:
    """Return the finite ones of some losses of the run, those of a likelihood as its levels."""
    scale, losses = likelihood(history), losses.finite()
    return losses if scale is None else scale.of(losses)


def validation_losses(history: History) -> Iterator[tuple[str, Series]]:
    """Yield (name, finite losses) of each split other than the training split; see `Course.loss`"""
    for name in history.scalar_names():
        split = name.removeprefix(f"{Scalar.LOSS}/")
        if split != name and not split.lower().startswith("train"):
            yield split, on_scale_of_loss(history, history.scalar(name))
