"""How the run goes: the loss's course and the learning rate's, as the rules' guard-rails need it.

Comes in: a history.
Goes out: a `Course`: has it learned, is it flat, is it done, is the learning rate warming up?
Promise:  says "no" rather than "flat" or "diverged" where the loss has no floor or is unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.signals import block_means, middle, noise, trend
from trainvitals.wire import Scalar, Stat, Stream

FIRST = 10
LAST = 50
ACCURACY_DONE = 0.99
LOSS_DONE = 0.01
"""Of the initial loss."""
PROGRESS_MIN = 0.02
"""Of the initial loss: less is no learning. A classifier's loss starts 1 to 2 % above that of an
even guess, since its first logits differ, and loses that without learning anything."""
EXPLOSION = 5.0
"""A loss this many times the first one, within the first ten, is an explosion and no noise."""
RECOVERY = 0.3
"""Of the initial loss: a run with a fault from the start is well again after a fall by this."""
NOISE_MAX = 0.07
"""Of the initial loss: a loss noisier than that is near its floor, or says nothing."""


@dataclass(frozen=True)
class Course:
    """The course of one run up to now."""

    history: History

    @cached_property
    def loss(self) -> Series:
        """The training loss where it is finite."""
        return self.history.scalar(Scalar.LOSS).finite()

    @cached_property
    def known(self) -> bool:
        """Whether a loss with a floor was seen: never negative, at least once above zero, and
        not declared as one that need not fall (`watch(loss_falls=False)`).

        Losses of policy gradients, critics and some likelihoods have none: their level says
        nothing about learning.
        """
        if not self.may_be_judged:
            return False
        values = self.loss.values
        return len(values) > 0 and float(values.min()) >= 0 and float(values.max()) > 0

    @cached_property
    def may_be_judged(self) -> bool:
        """Whether the course of the loss means anything: not with `watch(loss_falls=False)`."""
        return self.history.facts.get("loss_falls") != 0

    @cached_property
    def initial(self) -> float:
        """The loss at the start: median of the first 10, or of the first 3 when that is lower.

        A run that explodes within these steps starts at its very first loss.
        """
        values = self.loss.values[:FIRST]
        if len(values) == 0:
            return float("nan")
        if float(values.max()) > EXPLOSION * float(values[0]) > 0:
            return float(values[0])
        return min(middle(values), middle(values[:3]))

    @cached_property
    def noise(self) -> float:
        """The loss's standard deviation from step to step over the newest 200 steps."""
        return noise(self.loss.values[-200:])

    @cached_property
    def erratic(self) -> bool:
        """Whether the loss varies from step to step by half of its level or more."""
        return self.noise > 0.5 * abs(self.now())

    def now(self, last: int = LAST) -> float:
        """Return the median of the newest losses."""
        return middle(self.loss.values[-last:])

    @cached_property
    def band(self) -> float:
        """How far from its start a loss may be by chance: 2 % of it, or 0.9 of the noise.

        Two standard errors of the difference between a median of 10 and a median of 50.
        """
        return max(PROGRESS_MIN * middle(self.loss.values[:FIRST]), 0.9 * self.noise)

    @cached_property
    def falling(self) -> bool:
        """Whether the newest half of the loss (10 to 500 steps) has a downward trend."""
        values = self.loss.values
        newest = values[-min(500, max(10, len(values) // 2)) :]
        p, slope = trend(block_means(newest, 10))
        return bool(p < 0.05 and slope < 0)

    @cached_property
    def flat(self) -> bool:
        """Whether the loss has neither fallen nor risen more than its noise since the start."""
        values = self.loss.values
        if not self.known or len(values) < FIRST + LAST:
            return False
        start, band = middle(values[:FIRST]), self.band
        if self.noise > NOISE_MAX * start or self.falling:
            return False
        blocks = [middle(part) for part in np.array_split(values, min(20, len(values) // 25))]
        # A run that was well below its start has learned, wherever it is now; one that was well
        # above it wanders, as bootstrapped targets do.
        wandered = max(abs(start - block) for block in blocks) > 3 * band
        return bool(not wandered and abs(start - self.now()) < band)

    def learned(self, share: float = 0.05, last: int = 20) -> bool:
        """Return whether the newest losses are below the start by `share` of it and by noise."""
        values = self.loss.values
        if not self.known or len(values) < FIRST:
            return False
        last = min(last, max(5, len(values) // 2))
        gain = self.initial - self.now(last)
        return bool(gain > max(share * self.initial, 2 * self.noise / last**0.5))

    @cached_property
    def converged(self) -> bool:
        """Whether there is nothing left to learn: rules that look for stagnation keep silent."""
        if self.known and len(self.loss) >= FIRST and self.now(20) < LOSS_DONE * self.initial:
            return True
        return any(
            middle(accuracy.values[-20:]) >= ACCURACY_DONE
            for name in self.history.scalar_names()
            if "acc" in name.lower() and len(accuracy := self.history.scalar(name)) >= FIRST
        )

    @cached_property
    def expected_initial(self) -> float | None:
        """The loss of a guess that knows nothing, in nats: ln C for a cross-entropy; else None."""
        if self.history.facts.get("loss") != "CrossEntropyLoss":
            return None
        heads = [
            place.shape[0]
            for place in self.history.places(Stream.WEIGHT)
            if place.kind == "weight" and len(place.shape) >= 2 and "output" in place.flags
        ]
        return math.log(heads[0]) if len(heads) == 1 and heads[0] > 1 else None

    def recovered(self, since: int) -> bool:
        """Return whether the loss is back where it would be without a fault that began at `since`.

        That is: at the best level it had before, within its noise. For a fault that was there from
        the start: clearly below the first loss, and not above the loss of a blind guess. Where the
        level says nothing (no loss, or one without a floor) there is nothing to wait for.
        """
        if not self.known or len(self.loss) < FIRST or self.converged:
            return True
        now = self.now(20)
        before = self.loss.values[self.loss.steps < since]
        if len(before) >= 2 * FIRST:
            parts = np.array_split(before, min(20, len(before) // FIRST))
            best = min(middle(part) for part in parts)
            return now <= best + max(PROGRESS_MIN * best, 2 * self.noise)
        expected = self.expected_initial
        if expected is not None and now > 1.05 * expected:
            return False
        return self.learned(share=RECOVERY)

    @cached_property
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

    @cached_property
    def warming_up(self) -> bool:
        """Whether the learning rate rose during the newest 50 steps, by more than 2 %."""
        values = self.learning_rate.values[-50:]
        return len(values) > 1 and float(values[-1]) > 1.02 * float(values.min())

    @cached_property
    def cooling_down(self) -> bool:
        """Whether the learning rate is below a tenth of its peak: the end of a schedule."""
        values = self.learning_rate.values
        return len(values) > 0 and float(values[-1]) < 0.1 * float(values.max())
