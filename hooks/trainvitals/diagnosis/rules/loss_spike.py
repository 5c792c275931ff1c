"""TV504: the loss jumps, and stays high or jumps repeatedly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import clipping
from trainvitals.diagnosis.history import History, Series, Steps
from trainvitals.diagnosis.places import rms_window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Flags, Floats, log10, median, middle, noise, robust_z
from trainvitals.wire import Scalar, Stream


@dataclass(frozen=True)
class LossSpike(Rule):
    """The loss jumps far above its noise.

    ## What it detects
    The loss is more than 8 robust standard deviations above the 64 steps before (median and MAD,
    of the logarithm), more than 20 % of the initial loss above their median, and more than
    1.5 times their maximum. A spike that recovers is a note, because one outlier is a fact and not
    a fault; it stays listed after it is over. It is a warning if the loss has not recovered after
    50 steps (10 for a jump of more than half the initial loss, if its scale is known): it is more
    than 20 % of the initial loss above its level before or, after a jump above the initial loss,
    20 % above that level and above the maximum of the 64 steps before. It is also a warning if
    three spikes occur within 1,000 steps and the loss is not heavy-tailed. In a converged run, only
    jumps by more than the initial loss count. If the loss was negative at some step, as in a policy
    gradient, the jump must also exceed 4 times the largest step-to-step noise in 64 earlier steps,
    and there is no warning while it falls by a tenth of the jump within 20 steps.
    ## Why it matters
    A spike follows one bad update: a corrupted batch, a learning rate at the edge of stability, or
    outdated second moments of the optimizer. A run that does not recover has lost progress.
    ## Evidence
    The jump in robust deviations, its height, the number of spikes, whether the loss recovered,
    and the tensor whose gradient grew most at that step, if the step was captured.
    ## What to do
    - Clip gradients; skip batches with an unusually large gradient norm.
    - For long runs, lower the learning rate or Adam's beta2 (to 0.95).
    - If the loss does not recover: resume from the checkpoint before the spike and skip those
      batches.
    ## When it is wrong
    Planned jumps: a curriculum, or a restart of the learning rate.
    ## References
    Chowdhery et al., "PaLM", 2022, arXiv:2204.02311, section 5.1; Molybog et al., "A Theory on
    Adam Instability in Large-Scale Machine Learning", 2023, arXiv:2304.09871.
    """

    code: ClassVar[str] = "TV504"
    stage: ClassVar[Stage] = Stage.LOSS
    explains: ClassVar[frozenset[str]] = frozenset({"TV502", "TV503"})
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = clipping(1.0)
    refuted_by: ClassVar[str] = "A planned change of data or learning rate at that step."

    z_min: float = threshold(8.0, "Robust deviations of the log-loss above the window before.")
    jump_min: float = threshold(0.2, "Height of the jump, as a share of the initial loss.")
    jump_min_converged: float = threshold(
        1.0, "The same share for a converged run, whose loss varies by many times its level."
    )
    tail_max: float = threshold(
        3.0, "95 % quantile of the loss over its median in a window; heavy-tailed above this value."
    )
    window: int = threshold(64, "Number of previous steps that a loss is compared with.")
    noise_factor_signed: float = threshold(
        4.0,
        "Height of the jump of a loss that can be negative, relative to the largest step-to-step "
        "noise in a window before it.",
    )
    recovery_steps: int = threshold(50, "Steps after which a loss that is still high is a warning.")
    return_min: float = threshold(
        0.1,
        "Fall within 20 steps, as a share of the jump, with which a loss without a scale returns.",
    )
    repeats_max: int = threshold(3, "Number of spikes per 1,000 steps that is a warning.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding: for the first spike that has not recovered, otherwise the newest."""
        course = Course(history)
        loss = course.loss.last(1000 + self.window)
        if len(loss) <= self.window or not course.may_be_judged:
            return
        z, jump, before = self._jumps(loss, course)
        # Near its minimum a loss varies by many times its level: compare with the initial loss.
        least = self.jump_min if not course.converged else self.jump_min_converged
        height_min = least * abs(course.initial)
        found = (z > self.z_min) & (jump > height_min)
        if not course.known:
            found &= self._exceeds_noise(course.loss, loss.steps, jump)
        starts = np.flatnonzero(found)
        if not len(starts):
            return
        # Count neighbouring steps as one spike.
        starts = starts[np.r_[True, np.diff(starts) > self.recovery_steps // 2]]
        newest = int(starts[-1])
        lasting = [int(i) for i in starts if self._stays_up(course, loss, int(i), before[i])]
        repeated = len(starts) >= self.repeats_max and not self._is_heavy_tailed(loss)
        at = lasting[0] if lasting else newest
        alarm = bool(lasting) or repeated
        first_mover = self._first_mover(history, int(loss.steps[at]))
        yield self.finding(
            severity=Severity.WARNING if alarm else Severity.INFO,
            since_step=int(loss.steps[at]),
            summary=(
                f"Loss spike at step {int(loss.steps[at])}: the loss jumped from "
                f"{number(course.shown(before[at]), 4)} to "
                f"{number(course.shown(float(loss.values[at])), 4)}"
                + (" and has not recovered" if lasting else " and recovered")
                + (f"; {len(starts)} spikes in {len(loss)} steps." if len(starts) > 1 else ".")
            ),
            evidence=(
                Evidence(
                    quantity="deviation of the loss from the steps before",
                    seen=float(z[at]),
                    limit=self.z_min,
                    direction="above",
                    healthy=(None, 5.0),
                    unit="robust standard deviations",
                ),
                Evidence(
                    quantity="height of the jump",
                    seen=float(jump[at]),
                    limit=height_min,
                    direction="above",
                    unit=course.unit,
                    text=f"{percent(least)} of the initial loss",
                ),
                Evidence(quantity="spikes", seen=float(len(starts)), text=f"in {len(loss)} steps"),
                Evidence(quantity="recovered", seen="no" if lasting else "yes"),
                *(
                    [Evidence(quantity="tensor whose gradient grew most", seen=first_mover)]
                    if first_mover
                    else []
                ),
            ),
            confidence=0.85 if lasting else 0.6,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _exceeds_noise(self, whole: Series, steps: Steps, jump: Floats) -> Flags:
        """Return for each of `steps` whether the jump exceeds the noise of all windows before it.

        The advantages of a converged policy are almost always zero; one explored action then
        gives a loss that was usual at the start of the training.
        """
        ends = np.arange(self.window, len(whole) + 1, self.window)
        noises = np.array([noise(whole.values[end - self.window : end]) for end in ends])
        largest = np.r_[0.0, np.maximum.accumulate(noises)]
        usual = largest[np.searchsorted(whole.steps[ends - 1], steps)]
        exceeds: Flags = jump > self.noise_factor_signed * usual
        return exceeds

    def _is_heavy_tailed(self, loss: Series) -> bool:
        """Whether large values are normal for this loss (a KL term, a sum over few episodes)."""
        parts = np.array_split(loss.values, max(1, len(loss) // self.window))
        tails = [float(np.quantile(p, 0.95)) - self.tail_max * middle(p) for p in parts]
        return middle(np.array(tails)) > 0

    def _jumps(self, loss: Series, course: Course) -> tuple[Floats, Floats, Floats]:
        """Return (z, height above the median before, that median); NaN at steps without a jump."""
        values = loss.values.astype(np.float64)
        z, before = np.full((2, len(values)), np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(values, self.window)[:-1]
        # Near its minimum the loss of a small batch is heavy-tailed: a jump must exceed the
        # maximum of the window.
        highest = windows.max(axis=1)
        rare = np.flatnonzero(values[self.window :] > highest + 0.5 * np.abs(highest))
        scaled = log10(values) if course.known else values
        for at in rare + self.window:
            z[at] = robust_z(scaled[at - self.window : at + 1], self.window)[-1]
            before[at] = middle(values[at - self.window : at])
        return z, values - before, before

    def _stays_up(self, course: Course, loss: Series, at: int, before: float) -> bool:
        height = float(loss.values[at]) - before
        # The level of a loss that can be negative is no scale; what it has fallen by is one.
        scale = max(abs(course.initial), course.initial - before)
        patience = 10 if course.known and height > 0.5 * scale else self.recovery_steps
        since = loss.values[at:]
        if len(since) < patience:
            return False
        now = middle(since[-20:])
        returns = not course.known and now < middle(since[-40:-20]) - self.return_min * height
        if now > before + self.jump_min * scale:
            return not returns
        # A jump above the initial loss that is not undone, although little is left of it.
        window = loss.values[max(0, at - self.window) : at]
        is_undone = now <= max(float(window.max()), (1 + self.jump_min) * before)
        lost = course.known and height > scale and len(since) >= self.recovery_steps
        return lost and not is_undone

    def _first_mover(self, history: History, step: int) -> str:
        places = history.places(Stream.GRADIENT)
        seen = rms_window(history, Stream.GRADIENT, range(len(places)), last=256)
        at = int(np.searchsorted(seen.steps, step))
        if at < 5 or at >= len(seen.steps) or seen.steps[at] != step:
            return ""
        usual = median(seen.values[max(0, at - 32) : at])
        with np.errstate(invalid="ignore", divide="ignore"):
            growth = np.where(usual > 0, seen.values[at] / usual, np.nan)
        return "" if np.isnan(growth).all() else places[int(np.nanargmax(growth))].name

    @staticmethod
    def sick() -> History:
        """Return a loss that jumps at step 150 and stays high."""
        return Example(220).scalars(loss=_course(220) + 2.0 * (np.arange(220) >= 150)).history

    @staticmethod
    def healthy() -> History:
        """Return the same noisy loss without the jump."""
        return Example(220).scalars(loss=_course(220)).history


def _course(n: int) -> Floats:
    falling = 0.4 + 2 * np.exp(-np.arange(n) / 60)
    noisy: Floats = falling * np.exp(np.random.default_rng(0).normal(0, 0.1, n))
    return noisy
