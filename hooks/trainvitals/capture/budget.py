"""How often a step is measured in full, so that the cost stays a small share of the step."""

from __future__ import annotations

FIRST_STEPS = 64
"""Measured in full whatever it costs: the initial state decides most failures."""
EVERY_MAX = 100
"""However little the budget leaves, a full step comes this often: rules need fresh frames."""
SMOOTHING = 0.1
SUSPICION_STEPS = 16
INSISTENT_STEPS = 4
"""Steps measured in full after a non-finite value."""
INSISTENT_EVERY = 256
"""Steps from one such value to the next that is answered so: a run of NaN costs no more."""
SUSPICION_RESERVE = 2.0
"""While something looks wrong the budget may be overdrawn by this factor."""


class Budget:
    """Decides which steps are full, from the measured cost of full and of other steps.

    `share` is own CPU time over step time; `every`, when given, a fixed cadence in steps instead.
    With a share of 0 and no cadence, no step is ever full.
    """

    def __init__(self, share: float, every: int | None = None) -> None:
        self.share = share
        self.every = every
        self._full_s = self._light_s = self._step_s = 0.0
        self._own_total_s = self._step_total_s = 0.0
        self._last_full = -1
        self._suspicious_until = -1
        self._insistent_from = -INSISTENT_EVERY

    @property
    def vital_only(self) -> bool:
        """Whether no step may be measured in full."""
        return self.every is None and self.share == 0

    def is_full(self, step: int) -> bool:
        """Whether `step` is to be measured in full."""
        if self.vital_only:
            return False
        if 0 <= step - self._insistent_from <= INSISTENT_STEPS:
            return True
        if self.every is not None:
            return step % self.every == 0 or step < self._suspicious_until
        return step < FIRST_STEPS or step - self._last_full >= self.cadence(step)

    def cadence(self, step: int) -> int:
        """Return how many steps lie between two full ones at present."""
        share = self.share * (SUSPICION_RESERVE if step < self._suspicious_until else 1.0)
        spare_s = share * self._step_s - self._light_s
        extra_s = self._full_s - self._light_s
        if extra_s <= 0:
            return 1
        if spare_s <= extra_s / EVERY_MAX:
            return EVERY_MAX
        return max(1, round(extra_s / spare_s))

    def suspect(self, step: int) -> None:
        """Measure closely for a while: something looks wrong."""
        self._suspicious_until = step + SUSPICION_STEPS

    def insist(self, step: int) -> None:
        """Measure the steps after `step` in full: a value was not finite."""
        if step - self._insistent_from >= INSISTENT_EVERY:
            self._insistent_from = step

    def spent(self, step: int, own_s: float, step_s: float | None, *, full: bool) -> None:
        """Take in what a step cost us and how long it was (None when that is not known)."""
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
        """Take in CPU time of our background threads."""
        self._own_total_s += cpu_s

    @property
    def overhead(self) -> float | None:
        """Own CPU time over step time so far, whole run; None before the second step."""
        return self._own_total_s / self._step_total_s if self._step_total_s > 0 else None


def _smoothed(old: float, new: float) -> float:
    return new if old == 0 else old + SMOOTHING * (new - old)
