"""Blocks of training steps, their times, and the ratio of watched to plain blocks.

Comes in: one workload with one optimizer, and what is attached to it for a watched block.
Goes out: per block the mean times of a step; over the rounds means with 95 % intervals.
Start at `Trainer.block`; the statistics (`interval`, `ratios`) are pure functions.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import Workload

# Two-sided 95 % quantiles of Student's t for 1, 2, 3, … degrees of freedom.
_T95 = (
    *(12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Interval:
    """A mean over rounds and the half width of its 95 % interval (NaN for one round)."""

    mean: float
    half: float


def interval(values: Sequence[float]) -> Interval:
    """Return the mean with its t interval; the rounds are taken as independent."""
    if not values:
        return Interval(math.nan, math.nan)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan)
    t = _T95[min(len(values) - 1, len(_T95)) - 1]
    return Interval(mean, t * statistics.stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True)
class Times:
    """Seconds of one block: `wall`, CPU of the whole `process`, CPU of the training `thread`."""

    steps: int
    wall: float
    process: float
    thread: float

    def __add__(self, other: Times) -> Times:
        return Times(
            self.steps + other.steps,
            self.wall + other.wall,
            self.process + other.process,
            self.thread + other.thread,
        )

    def per_step(self, clock: str) -> float:
        """Return the mean seconds of a step on `clock`: wall, process or thread."""
        return float(getattr(self, clock)) / self.steps

    @property
    def background_s(self) -> float:
        """CPU seconds of all threads but the training thread, per step."""
        return (self.process - self.thread) / self.steps


@dataclass(frozen=True)
class Attachment:
    """The additions of a watched block to the loop: a hook on the loss, one before the step, an
    end.

    `share` is what the monitor reports of its own cost; None where it does not measure it.
    """

    loss: Callable[[Tensor], Tensor] = lambda loss: loss
    before_step: Callable[[Tensor], None] = lambda _loss: None
    share: Callable[[], float | None] = lambda: None
    close: Callable[[], None] = lambda: None


Attach = Callable[[nn.Module, torch.optim.Optimizer], Attachment]
NOTHING = Attachment()


class Trainer:
    """One instance of a model and of its optimizer, trained plain and watched in turn.

    Two instances of the same model differ by up to 27 % by their place in memory alone.
    """

    def __init__(self, workload: Workload, *, fused: bool = False) -> None:
        self.workload = workload
        self.model = workload.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=fused)
        self.block(2)
        self.step_s = self.block(5).per_step("wall")

    def steps_in(self, seconds: float, least: int = 3) -> int:
        """Return how many plain steps take about `seconds`, at least `least`."""
        return max(least, round(seconds / self.step_s))

    def block(self, steps: int, added: Attachment = NOTHING, seconds: float = math.inf) -> Times:
        """Train `steps` steps, fewer if `seconds` have passed, and return the sum of their times.

        Every step counts, so a costly step that comes once in a hundred is in the mean. A median
        over the steps would leave it out.
        """
        model_loss, optimizer = self.workload.loss, self.optimizer
        gc.collect()
        done = 0
        wall, process, thread = time.perf_counter(), time.process_time(), time.thread_time()
        while done < steps and time.perf_counter() - wall < seconds:
            optimizer.zero_grad(set_to_none=True)
            loss = added.loss(model_loss())
            loss.backward()  # type: ignore[no-untyped-call]
            added.before_step(loss)
            optimizer.step()
            done += 1
        return Times(
            done,
            time.perf_counter() - wall,
            time.process_time() - process,
            time.thread_time() - thread,
        )


@dataclass(frozen=True)
class Round:
    """A watched block with the plain blocks before and after it, and the monitor's own figure.

    `cost` covers all steps since the watch began; it equals `watched` except after a warm-up.
    """

    plain: Times
    watched: Times
    cost: Times
    share: float | None

    def ratio(self, clock: str) -> float:
        """Return the time of a watched step over the mean time of its plain neighbours."""
        return self.watched.per_step(clock) / self.plain.per_step(clock)

    def excess_s(self, clock: str) -> float:
        """Return the seconds on `clock` that the watch added since it began."""
        return float(getattr(self.cost, clock)) - self.cost.steps * self.plain.per_step(clock)


def alternate(
    trainer: Trainer, attach: Attach, steps: int, pairs: int, seconds: float
) -> list[Round]:
    """Return rounds plain, watched, plain, …; a plain block is the neighbour of two.

    Ends after `pairs` rounds or when the next round would exceed `seconds`, but not before two.
    """
    rounds: list[Round] = []
    start = time.perf_counter()
    before = trainer.block(steps)
    while len(rounds) < pairs and has_time(start, seconds, len(rounds)):
        added = attach(trainer.model, trainer.optimizer)
        try:
            watched = trainer.block(steps, added)
            share = added.share()
        finally:
            added.close()  # or the hooks of a peer that failed stay on the model
        after = trainer.block(steps)
        rounds.append(Round(before + after, watched, watched, share))
        before = after
    return rounds


def has_time(start: float, seconds: float, done: int) -> bool:
    """Return whether one more round fits into `seconds`; two rounds are always made."""
    used = time.perf_counter() - start
    return done < 2 or used + used / done <= seconds


def from_the_start(
    trainer: Trainer,
    attach: Attach,
    *,
    first_steps: int,
    first_seconds: float,
    block_seconds: float,
    pairs: int,
    seconds: float,
) -> tuple[list[Round], list[Round]]:
    """Return rounds over the first steps of a fresh watch, and over the steps that follow them.

    Each round watches anew: the first `first_steps` steps (fewer after `first_seconds`) are the
    first block, and the next block is the run after its warm-up.
    """
    first: list[Round] = []
    later: list[Round] = []
    steps = trainer.steps_in(block_seconds)
    start = time.perf_counter()
    before = trainer.block(steps)
    while len(first) < pairs and has_time(start, seconds, len(first)):
        added = attach(trainer.model, trainer.optimizer)
        warm = trainer.block(first_steps, added, first_seconds)
        first_share = added.share()
        watched = trainer.block(steps, added)
        share = added.share()
        added.close()
        after = trainer.block(steps)
        plain = before + after
        first.append(Round(plain, warm, warm, first_share))
        later.append(Round(plain, watched, warm + watched, share))
        before = after
    return first, later
