"""TV607: updates are so small that rounding leaves the weights as they were."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at, for_each_group
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import matrices_by_depth, rows_named, spread_over, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Flags, Floats, median, middle
from trainvitals.wire import Event, EventKind, Place, Stat, Stream

_HALF_DISTANCE: Final = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Largest half distance between neighbouring numbers, relative to the number."""
_GONE_MAX: Final = 0.95
"""Share of entries without a gradient up to which the others are judged."""


@dataclass(frozen=True)
class AbsorbedUpdates(Rule):
    """Optimizer steps leave most entries of the weights unchanged: rounding absorbs the updates.

    ## What it detects
    In the newest 20 measured steps, for at least half of the weight matrices: a step did not change
    90 % (median), and never less than 50 %, of the entries with a gradient, while the learning rate
    is above 0 and some entries do change. Left out: embeddings, frozen parameters and those of no
    optimizer, warm-up and the end of a schedule.
    The step of the optimizer is measured. A program that rounds float32 weights after it is
    recognised if all weights are values of bfloat16 or float16 (not on accelerators); it is
    reported if RMS(ΔW)/RMS(W) is below half of the distance to the next value, for more than half
    of the matrices.
    ## Why it matters
    bfloat16 has 8 significant bits: a step below 1/512 of a weight is rounded away, and the same
    step is rounded away again the next time. The gradients look healthy and the loss falls slowly
    or not at all. Only large updates of small weights get through.
    ## Evidence
    The share of entries with a gradient that did not change, and the number of matrices.
    ## What to do
    - Keep the weights in float32 and compute in bfloat16 (`torch.autocast`).
    - With bfloat16 weights, use an optimizer with float32 master weights or stochastic rounding.
    - With float32 weights, the learning rate is far too small. If the program rounds them after the
      step, keep the unrounded weights; the code raises the rate above the rounding instead.
    ## When it is wrong
    Optimizers that change only some entries in a step on purpose (coordinate descent, masks).
    ## References
    Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740, section 3.1; Zamirai et
    al., "Revisiting BFloat16 Training", 2020, arXiv:2010.06192.
    """

    code: ClassVar[str] = "TV607"
    stage: ClassVar[Stage] = Stage.OPTIMIZER
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV501", "TV806", "TV502", "TV507", "TV602", "TV603"}
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.UPDATE, Stream.GRADIENT)
    fix: ClassVar[str] = at(
        Moment.BEFORE_TRAINING, "model.float()  # float32 weights; compute in bfloat16 by autocast"
    )
    refuted_by: ClassVar[str] = "The weights differ clearly from those of many steps before."

    lost_max: float = threshold(
        0.9, "Share of entries with a gradient that a step did not change, median over the window."
    )
    lost_always: float = threshold(
        0.5, "The same share in each step; lower where gradients are accumulated inside the step."
    )
    window: int = threshold(20, "Newest measured steps.")
    ratio_share: float = threshold(
        0.5,
        "RMS(ΔW)/RMS(W) of weights that the program rounds, as a share of the largest change that "
        "is rounded away: 2^-8 of a weight for bfloat16, 2^-11 for float16.",
    )
    matrices_share: float = threshold(0.5, "Share of the weight matrices that are affected.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course = Course(history)
        rate = course.learning_rate.values
        if course.warming_up or course.cooling_down or (len(rate) and float(rate[-1]) <= 0):
            return
        rows = spread_over(matrices_by_depth(history, Stream.UPDATE))
        if (event := self._rounded(history)) is not None:
            yield from self._after_the_step(history, rows, event)
            return
        places = [history.places(Stream.UPDATE)[row] for row in rows]
        lost, unchanged = self._lost(history, rows, places)
        if len(lost) < self.window:
            return
        typical = median(lost)
        with np.errstate(invalid="ignore"):
            affected = (typical > self.lost_max) & (lost >= self.lost_always).all(axis=0)
        share = float(affected.mean()) if len(affected) else 0.0
        # If no entry of the model changes, the optimizer has other tensors or a rate of 0 (TV603).
        if not share >= self.matrices_share or not (unchanged[:, affected] < 1).any():
            return
        seen = float(np.median(typical[affected]))
        count = int(affected.sum())
        first = self._since(history, rows, affected)
        yield self.finding(
            severity=Severity.WARNING,
            where="" if share == 1.0 or count > 1 else places[int(np.argmax(affected))].name,
            since_step=first,
            summary=f"Absorbed updates: a step leaves {percent(seen)} of the entries of {count} of "
            f"{len(rows)} weight matrices exactly as they were since step {first}, although they "
            "have a gradient.",
            evidence=(
                Evidence(
                    quantity="share of entries with a gradient that a step does not change",
                    seen=seen,
                    limit=self.lost_max,
                    direction="above",
                    healthy=(0.0, 0.5),
                    unit="share",
                    statistic=Stat.UNCHANGED_SHARE,
                ),
                Evidence(
                    quantity="share of the weight matrices affected",
                    seen=share,
                    limit=self.matrices_share,
                    direction="above",
                    unit="share",
                ),
            ),
            confidence=0.9,
            stream=Stream.UPDATE,
            statistic=Stat.UNCHANGED_SHARE,
        )

    def _rounded(self, history: History) -> Event | None:
        """Return the event of weights that the program rounds after its steps."""
        events = (e for e in history.events if e.kind == EventKind.WEIGHTS_ROUNDED)
        return next((e for e in events if e.text in _HALF_DISTANCE), None)

    def _after_the_step(self, history: History, rows: list[int], event: Event) -> Iterator[Finding]:
        ratios = window(history, Stream.UPDATE, Stat.RATIO, rows, last=self.window).values
        if len(ratios) < self.window:
            return
        limit = self.ratio_share * _HALF_DISTANCE[event.text]
        typical = median(ratios)
        share = float((typical < limit).mean())
        if not share > self.matrices_share:
            return
        usual = middle(typical)
        yield self.finding(
            severity=Severity.WARNING,
            since_step=0,
            summary=f"Absorbed updates: the program rounds float32 weights to {event.text} after "
            f"its steps (seen at step {event.step}), and an update is {number(usual)} of a weight, "
            f"where {event.text} rounds less than {number(_HALF_DISTANCE[event.text])} away.",
            evidence=(
                Evidence(
                    quantity="update relative to the weight, median of the matrices",
                    seen=usual,
                    limit=limit,
                    direction="below",
                    healthy=(2 * limit, None),
                    statistic=Stat.RATIO,
                    text=f"{self.ratio_share:g} of half the distance between {event.text} numbers",
                ),
                Evidence(
                    quantity="share of the weight matrices affected",
                    seen=share,
                    limit=self.matrices_share,
                    direction="above",
                    unit="share",
                ),
            ),
            fix=_larger_than_rounding(usual, _HALF_DISTANCE[event.text]),
            confidence=0.9,
            stream=Stream.UPDATE,
            statistic=Stat.RATIO,
        )

    def _lost(
        self, history: History, rows: list[int], places: list[Place]
    ) -> tuple[Floats, Floats]:
        """Return (share lost, share unchanged) of the newest frames with both measurements."""
        gradient_rows = rows_named(history, Stream.GRADIENT, [p.name for p in places])
        nothing = np.empty((0, len(rows)))
        if not rows or None in gradient_rows:
            return nothing, nothing
        known = [row for row in gradient_rows if row is not None]
        update = window(history, Stream.UPDATE, Stat.UNCHANGED_SHARE, rows, last=self.window)
        zero = window(history, Stream.GRADIENT, Stat.ZERO_SHARE, known, last=self.window)
        _, at, there = np.intersect1d(update.steps, zero.steps, return_indices=True)
        unchanged, gone = update.values[at], zero.values[there]
        # Of hardly any entry with a gradient, the share that did not change says nothing.
        lost = np.where(gone < _GONE_MAX, (unchanged - gone) / (1 - np.minimum(gone, 0.99)), 0.0)
        lost = np.clip(lost, 0, 1)
        return lost, unchanged

    def _since(self, history: History, rows: list[int], affected: Flags) -> int:
        """Return the first step of the newest series in which these matrices lose updates."""
        chosen = [row for row, is_affected in zip(rows, affected, strict=True) if is_affected]
        steps = history.steps(Stream.UPDATE)
        values = history.values(Stream.UPDATE, Stat.UNCHANGED_SHARE)[:, chosen]
        live = np.flatnonzero(~(median(values, axis=1) >= self.lost_always))
        begin = int(live[-1]) + 1 if len(live) else 0
        return int(steps[min(begin, len(steps) - 1)])

    @staticmethod
    def sick() -> History:
        """Return steps that change 3 % of the entries."""
        return _run(0.97, 0.01)

    @staticmethod
    def healthy() -> History:
        """Return layers behind dead units: the entries that do not change have no gradient."""
        return _run(0.97, 0.96)


def _larger_than_rounding(ratio: float, half_distance: float) -> str:
    """Return the fix that raises updates of `ratio` to the half distance, up to a hundredfold.

    The line that rounds is in the program; an update of this size is not rounded away.
    """
    factor = min(100.0, math.ceil(half_distance / ratio)) if ratio > 0 else 100.0
    return for_each_group(f"['lr'] *= {factor:.0f}")


def _run(unchanged: float, without_gradient: float) -> History:
    places = [
        Place(f"{i}.weight", kind="weight", shape=(64, 64), depth=i, module=str(i))
        for i in range(3)
    ]
    return (
        Example(40)
        .scalars(loss=np.full(40, 2.3), learning_rate__0=1e-5)
        .stream(Stream.UPDATE, places, {p.name: {Stat.UNCHANGED_SHARE: unchanged} for p in places})
        .stream(
            Stream.GRADIENT, places, {p.name: {Stat.ZERO_SHARE: without_gradient} for p in places}
        )
        .history
    )
