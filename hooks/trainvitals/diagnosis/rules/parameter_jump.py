"""TV606: a parameter changed by far more than the optimizer's updates add up to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, times
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.places import rows_named, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, middle
from trainvitals.wire import Place, Scalar, Stat, Stream

_ADAPTIVE: Final = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adafactor", "Lion")
"""Optimizers whose update hardly grows with the gradient."""


_RESTORE: Final = "\n".join(
    (
        at(Moment.BEFORE_TRAINING, "kept = [p.detach().clone() for p in model.parameters()]"),
        at(
            Moment.STEP,
            "with torch.no_grad():\n"
            "    for p, old in zip(model.parameters(), kept):\n"
            "        if not p.norm() <= 3 * old.norm() + 0.1 * p.numel() ** 0.5:  # also NaN\n"
            "            p.copy_(old)\n"
            "        old.copy_(p)",
        ),
    )
)


class _Jump(NamedTuple):
    """A change between two captured steps that the optimizer did not make."""

    place: Place
    step: int
    before: float
    after: float
    """Norms of the parameter."""
    ratio: float
    """|‖after‖ − ‖before‖| over the largest change that the updates can have made."""
    others: int
    """Other parameters with such a jump at the same step."""


@dataclass(frozen=True)
class ParameterJump(Rule):
    """A parameter changed between two steps, and not by the optimizer.

    ## What it detects
    Between two captured steps, the norm of a parameter changed by more than a tenth and by more
    than 30 times the change that the optimizer can have made: the number of steps between them
    times the largest norm of an update so far. The reverse triangle inequality makes this a safe
    bound. It is a warning if the norm tripled or the loss rose, otherwise a note. Left out: steps
    with values that are not finite, parameters that jump more than twice within 128 captured steps,
    and times between captured steps in which the learning rate rose or, under SGD, the gradient
    norm did.
    ## Why it matters
    Something else changed the weights: damaged memory, a kernel that writes past its buffer, a
    broken collective operation, an in-place change in the model's code, a checkpoint of another
    run. Training continues from weights that are not the result of training.
    ## Evidence
    The norm before and after, the ratio to the bound, and the number of parameters that jumped.
    ## What to do
    - Load the last checkpoint before this step.
    - If one rank or one machine is affected alone, test its hardware.
    - Look for code that writes to `.data` or copies into parameters.
    - The code keeps a copy of the weights, one step old, and restores a weight whose norm tripled
      within a step. It limits the damage; it does not remove the cause.
    ## When it is wrong
    Weights that your program replaces on purpose: loading a checkpoint, averaging, pruning, a new
    head, clipping of weights. Without a rise of the loss these are only notes.
    ## References
    Dixit et al., "Silent Data Corruptions at Scale", 2021, arXiv:2102.11245;
    Grattafiori et al., "The Llama 3 Herd of Models", 2024, arXiv:2407.21783, section 3.3.4.
    """

    code: ClassVar[str] = "TV606"
    stage: ClassVar[Stage] = Stage.WIRING
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            *("TV101", "TV102", "TV201", "TV202", "TV501", "TV806"),
            *("TV503", "TV504", "TV601", "TV701", "TV901"),
        }
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.WEIGHT, Stream.UPDATE)
    fix: ClassVar[str] = _RESTORE
    refuted_by: ClassVar[str] = "Your program replaced these weights at this step on purpose."

    ratio_max: float = threshold(
        30.0, "Change of the norm relative to the largest that the updates can have made."
    )
    change_min: float = threshold(0.1, "Least change of the norm, as a share of the norm.")
    growth_max: float = threshold(3.0, "Growth of the norm that is a warning by itself.")
    rise_max: float = threshold(0.2, "Rise of the loss, as a share of its level before.")
    growth_unseen_max: float = threshold(
        3.0, "Growth of learning rate and gradient norm in steps whose update was not captured."
    )
    frames: int = threshold(128, "Newest captured steps that are examined.")
    frames_min: int = threshold(16, "Minimum number of captured steps.")
    jumps_max: int = threshold(2, "Jumps of one parameter in this time; more are on purpose.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the parameter with the largest jump."""
        jump = self._largest(history)
        if jump is None:
            return
        growth = jump.after / jump.before if jump.before > 0 else math.inf
        worse = growth > self.growth_max or self._loss_rose(history, jump.step)
        more = f" {jump.others} more parameters jumped." if jump.others else ""
        yield self.finding(
            severity=Severity.WARNING if worse else Severity.INFO,
            where=jump.place.name,
            since_step=jump.step,
            summary=(
                f"Parameter jump: before step {jump.step} the norm of {jump.place.name} went from "
                f"{number(jump.before)} to {number(jump.after)}, {times(jump.ratio)} what the "
                f"optimizer's updates add up to.{more}"
            ),
            evidence=(
                Evidence(
                    quantity="change of the norm relative to the updates in this time",
                    seen=jump.ratio,
                    limit=self.ratio_max,
                    direction="above",
                    healthy=(0.0, 1.0),
                ),
                Evidence(quantity="norm before", seen=jump.before),
                Evidence(quantity="norm after", seen=jump.after),
                Evidence(quantity="other parameters with such a jump", seen=float(jump.others)),
            ),
            confidence=0.9 if worse else 0.6,
            stream=Stream.WEIGHT,
            statistic=Stat.L2,
        )

    def _largest(self, history: History) -> _Jump | None:
        places = history.places(Stream.UPDATE)
        rows = rows_named(history, Stream.WEIGHT, [p.name for p in places])
        pairs = [(w, u) for u, w in enumerate(rows) if w is not None and places[u].optimized]
        weights = window(history, Stream.WEIGHT, Stat.L2, [w for w, _ in pairs], last=self.frames)
        updates = window(
            history, Stream.UPDATE, Stat.RMS, [u for _, u in pairs], last=2 * self.frames
        )
        if len(weights.steps) < 2 or len(updates.steps) < 2:
            return None
        sizes = np.sqrt([float(math.prod(places[u].shape) or 1) for _, u in pairs])
        bound = self._bound(weights.steps, updates.steps, updates.values * sizes)
        before, after = weights.values[:-1], weights.values[1:]
        change = np.abs(after - before)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            ratio = change / bound
        calm = ~self._broken(history, weights.steps)[:, None]
        calm &= self._as_measured(history, weights.steps)[:, None]
        jumped = calm & np.isfinite(ratio) & (ratio > self.ratio_max)
        jumped &= change > self.change_min * before
        # A parameter that is rewritten repeatedly is rewritten on purpose.
        jumped &= jumped.sum(axis=0) <= self.jumps_max
        if len(jumped) < self.frames_min - 1 or not jumped.any():
            return None
        at, which = np.unravel_index(int(np.where(jumped, ratio, 0).argmax()), ratio.shape)
        return _Jump(
            places[pairs[which][1]],
            int(weights.steps[at + 1]),
            float(before[at, which]),
            float(after[at, which]),
            float(ratio[at, which]),
            int(jumped[at].sum()) - 1,
        )

    def _bound(self, steps: np.ndarray, updated: np.ndarray, norms: Floats) -> Floats:
        """Return the largest change of each parameter between two captured steps, by its updates.

        The number of steps times the largest update up to the later step; NaN if an update of these
        steps is not finite or none was captured before the earlier step.
        """
        finite = np.isfinite(norms)
        largest = np.fmax.accumulate(np.where(finite, norms, 0.0))
        until = np.searchsorted(updated, steps[1:], side="right") - 1
        until = np.clip(until, 0, len(updated) - 1)
        bound: Floats = np.diff(steps)[:, None] * largest[until]
        known = (steps[:-1] >= updated[0])[:, None] & finite[until] & (bound > 0)
        return np.where(known, bound, np.nan)

    def _broken(self, history: History, steps: np.ndarray) -> np.ndarray:
        """Return for each interval between captured steps whether a value in it was not finite."""
        bad = [
            series.steps[series.values > 0]
            for name in (Scalar.NONFINITE_LOSS, Scalar.NONFINITE_GRADIENTS)
            if len(series := history.scalar(name))
        ]
        at = np.unique(np.concatenate(bad)) if bad else np.empty(0, np.int64)
        counts = np.searchsorted(at, steps[1:], side="right") - np.searchsorted(at, steps[:-1])
        return np.asarray(counts > 0)

    def _as_measured(self, history: History, steps: np.ndarray) -> np.ndarray:
        """Return for each interval whether updates that were not captured were as the captured.

        For that, the learning rate must not rise in it; nor may the gradient norm, except for
        optimizers that divide by the gradient's scale. Both are recorded at every step.
        """
        kind = str(history.facts.get("optimizer", ""))
        curves = [Course(history).learning_rate]
        if kind not in _ADAPTIVE:
            curves.append(history.scalar(Scalar.GRADIENT_NORM))
        known = np.ones(len(steps) - 1, bool)
        for i in np.flatnonzero(np.diff(steps) > 1):
            known[i] = all(
                _is_level(curve, int(steps[i]), int(steps[i + 1]), self.growth_unseen_max)
                for curve in curves
            )
        return known

    def _loss_rose(self, history: History, step: int) -> bool:
        course = Course(history)
        if not course.known:
            return False
        before = course.loss.values[course.loss.steps < step][-20:]
        after = course.loss.since(step).values[:5]
        if len(before) < 3 or len(after) == 0:
            return False
        level = middle(before)
        return middle(after) > level + max(self.rise_max * level, 6 * course.noise)

    @staticmethod
    def sick() -> History:
        """Return a norm that grows a thousandfold between two steps, with usual updates."""
        return _run([10.0] * 30 + [10_000.0] * 10)

    @staticmethod
    def healthy() -> History:
        """Return a norm that grows as fast as the updates allow."""
        return _run([*np.linspace(10.0, 12.0, 40)])


def _is_level(curve: Series, start: int, end: int, growth: float) -> bool:
    """Return whether a curve is known at all steps from `start` to before `end`, and not grown."""
    before = curve.values[curve.steps <= start][-20:]
    at = slice(*np.searchsorted(curve.steps, (start, end)))
    within = curve.values[at]
    if len(before) == 0 or len(within) < end - start:
        return False
    return bool(within.max() <= growth * max(middle(before), float(before[-1])))


def _run(norms: list[float]) -> History:
    place = Place("0.weight", "weight", (10, 10), 0, "0", "Linear")
    return (
        Example(len(norms))
        .scalars(loss=np.full(len(norms), 1.0), nonfinite_loss=0.0)
        .stream(Stream.WEIGHT, [place], {"0.weight": {Stat.L2: norms}})
        .stream(Stream.UPDATE, [place], {"0.weight": {Stat.RMS: 0.01}})
        .history
    )
