"""Decide which steps are measured in full, to keep the cost a small share of the step time."""

from __future__ import annotations

FIRST_STEPS = 64
"""First steps, measured in full at any cost: most faults are visible in the initial state."""
EVERY_MAX = 100
"""Maximum number of steps between two full ones, at any cost: the rules need recent frames."""
SMOOTHING = 0.1
FINDING_STEPS = 16
NONFINITE_STEPS = 4
"""Steps measured in full after a non-finite value."""
NONFINITE_EVERY = 256
"""Minimum number of steps between two such periods: it limits the cost of a run with many NaN."""
FINDING_FACTOR = 2.0
"""Factor on the budget for some steps after a finding opened."""


class Budget:
    """Decides which steps are full, from the measured cost of full and of light steps.

    `share` is own CPU time over step time; `every` is a fixed number of steps instead. With a
    share of 0 and without `every`, no step is full.
    """

    def __init__(self, share: float, every: int | None = None) -> None:
        self.share = share
        self.every = every
        self._full_s = self._light_s = self._step_s = 0.0
        self._own_total_s = self._step_total_s = 0.0
        self._last_full = -1
        self._finding_until = -1
        self._nonfinite_at = -NONFINITE_EVERY

    @property
    def vital_only(self) -> bool:
        """Whether no step is measured in full."""
        return self.every is None and self.share == 0

    def is_full(self, step: int) -> bool:
        """Whether `step` is measured in full."""
        if self.vital_only:
            return False
        if 0 <= step - self._nonfinite_at <= NONFINITE_STEPS:
            return True
        if self.every is not None:
            return step % self.every == 0 or step < self._finding_until
        return step < FIRST_STEPS or step - self._last_full >= self.cadence(step)

    def cadence(self, step: int) -> int:
        """Return the current number of steps from one full step to the next."""
        share = self.share * (FINDING_FACTOR if step < self._finding_until else 1.0)
        spare_s = share * self._step_s - self._light_s
        extra_s = self._full_s - self._light_s
        if extra_s <= 0:
            return 1
        if spare_s <= extra_s / EVERY_MAX:
            return EVERY_MAX
        return max(1, round(extra_s / spare_s))

    def after_finding(self, step: int) -> None:
        """Raise the budget for the next `FINDING_STEPS` steps, because a finding opened."""
        self._finding_until = step + FINDING_STEPS

    def after_nonfinite(self, step: int) -> None:
        """Measure the steps after `step` in full, because a value was non-finite."""
        if step - self._nonfinite_at >= NONFINITE_EVERY:
            self._nonfinite_at = step

    def spent(self, step: int, own_s: float, step_s: float | None, *, full: bool) -> None:
        """Add the own CPU time of a step and its duration (None if unknown)."""
        if full:
            self._last_full = step
            self._full_s = _smoothed(self._full_s, own_s)
        else:
            self._light_s = _smoothed(self._light_s, own_s)
        if step_s is not None:
            self._step_s = _smoothed(self._step_s, step_s)
            self._own_total_s += own_s
            self._step_total_s += step_s

    def background(self, cpu_s: float) -> None:
        """Add the CPU time of trainvitals' background threads."""
        self._own_total_s += cpu_s

    @property
    def overhead(self) -> float | None:
        """Own CPU time over step time, whole run up to now; None before the second step."""
        return self._own_total_s / self._step_total_s if self._step_total_s > 0 else None


def _smoothed(old: float, new: float) -> float:
    return new if old == 0 else old + SMOOTHING * (new - old)
