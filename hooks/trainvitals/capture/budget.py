"""Decide which steps are measured in full, so that the cost stays within an account.

Own cost (the time in hooks in the training thread and the CPU time of background threads) may not
exceed ALLOWANCE_S + share × training time. The first steps draw on the allowance; later steps are
spread evenly at a little less than the share; what is left of the allowance is kept for the steps
after a finding or a non-finite value. A cost is known only when it was measured, so that the
account can be exceeded by the cost of one full step.
"""

from __future__ import annotations

from typing import Final

from trainvitals.api.wording import number, percent

ALLOWANCE_S: Final = 0.25
FIRST_STEPS: Final = 64
"""Number of first steps, measured in full while a reserve is left: most faults are visible
there."""
RESERVE_S: Final = 0.05
"""Part of the allowance that the first steps leave for findings."""
PACE: Final = 0.75
"""Part of the share that is planned: hooks cannot measure all of their own cost."""
EVERY_MAX: Final = 100
"""Number of steps after which a full one is due, if the balance allows it."""
SMOOTHING: Final = 0.2
FINDING_STEPS: Final = 16
NONFINITE_STEPS: Final = 4
"""Number of steps measured in full after a finding opened, and after a non-finite value."""
NONFINITE_EVERY: Final = 256
"""Minimum number of steps between two such periods: it limits the cost of a run with many NaN."""


class Budget:
    """Decides which steps are full.

    `share` is own cost over training time; `every` is a fixed number of steps instead of the
    account; `start` is the first step. With a share of 0 and without `every`, no step is full.
    Times are in seconds.
    """

    def __init__(self, share: float, every: int | None = None, start: int = 0) -> None:
        self.share = share
        self.vital_only = every is None and share == 0
        """Whether no step is measured in full."""
        self.every = every
        self.start = start
        self.own_s = self.training_s = 0.0
        self._full_s = 0.0
        self._others = 0
        self._others_own_s = self._others_s = 0.0
        self._planned_s: float | None = None
        self._last_full = start - 1
        self._finding_until = -1
        self._nonfinite_at = -NONFINITE_EVERY

    @property
    def balance_s(self) -> float:
        """The cost that is still allowed; negative if the account is exceeded."""
        return ALLOWANCE_S + self.share * self.training_s - self.own_s

    def is_full(self, step: int) -> bool:
        """Whether `step` is measured in full."""
        if self.vital_only:
            return False
        urgent = self._is_urgent(step)
        if self.every is not None:
            return urgent or step % self.every == 0
        if self.balance_s < self._full_s:
            return False
        if urgent or step - self._last_full >= EVERY_MAX:
            return True
        if step - self.start < FIRST_STEPS and self.balance_s - self._full_s >= RESERVE_S:
            return True
        return self._planned_s is not None and self._planned_s >= 0

    def after_finding(self, step: int) -> None:
        """Measure the next `FINDING_STEPS` steps in full, because a finding opened."""
        self._finding_until = step + FINDING_STEPS

    def after_nonfinite(self, step: int) -> None:
        """Measure the steps after `step` in full, because a value was non-finite."""
        if step - self._nonfinite_at >= NONFINITE_EVERY:
            self._nonfinite_at = step

    def spent(self, step: int, own_s: float, step_s: float | None, *, full: bool) -> None:
        """Add the own cost of a step and its duration (None if unknown)."""
        if full:
            self._last_full = step
            known = self._full_s
            self._full_s = own_s if known == 0 else known + SMOOTHING * (own_s - known)
        elif step_s is not None:
            self._others += 1
            self._others_own_s += own_s
            self._others_s += step_s
        self.own_s += own_s
        self.training_s += step_s or 0.0
        if step + 1 - self.start >= FIRST_STEPS:
            # From here on, the allowance is used for urgent steps only.
            cost_s = 0.0 if self._is_urgent(step) else own_s
            planned_s = (self._planned_s or 0.0) + PACE * self.share * (step_s or 0.0) - cost_s
            self._planned_s = min(planned_s, self._full_s)

    def background(self, cpu_s: float) -> None:
        """Add the CPU time of trainvitals' background threads."""
        self.own_s += cpu_s
        if self._planned_s is not None:
            self._planned_s -= cpu_s

    def _is_urgent(self, step: int) -> bool:
        return step < self._finding_until or 0 <= step - self._nonfinite_at <= NONFINITE_STEPS

    @property
    def overhead(self) -> float | None:
        """Own cost over training time, whole run up to now; None before the second step."""
        return self.own_s / self.training_s if self.training_s > 0 else None

    @property
    def note(self) -> str:
        """Why the overhead is above the share; "" if it is not, or for another reason.

        Within the account, the reason is the allowance; beyond it, what steps that are not full
        cost, if that alone is above the share. Also "" for a fixed cadence and for a share of 0:
        these have no account.
        """
        has_account = self.every is None and not self.vital_only
        if not has_account or self.own_s <= self.share * self.training_s or self.training_s <= 0:
            return ""
        if self.balance_s >= 0:
            return (
                f"the budget allows {number(ALLOWANCE_S)} s + {number(100 * self.share)} % of the "
                f"training time, so a run of {number(self.training_s, 2)} s shows a larger share"
            )
        if self._others_own_s <= self.share * self._others_s:
            return ""
        return (
            f"loss, learning rate and gradient norm of every step alone take "
            f"{percent(self._others_own_s / self._others_s)} of steps of "
            f"{number(1e3 * self._others_s / self._others, 2)} ms"
        )
