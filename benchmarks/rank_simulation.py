"""Simulate ranks that send to collectors on one Postgres: checks the sizing in docs/scaling.md.

    python benchmarks/rank_simulation.py --ranks 10000 --steps-per-s 0.5 --runs 40 --cores 36

A discrete-event simulation: no clock, socket or database. Each rank packs a batch at most once in
`INTERVAL_S`, sends one at a time, and retries with the trainer's own `Backoff` on simulated time. A
batch needs a core for its CPU time, then the lock of its run's row. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from trainvitals.ship.backoff import Backoff
from trainvitals.ship.http import Away
from trainvitals.ship.shipper import INTERVAL_S


@dataclass(frozen=True)
class Fleet:
    """The ranks, and what a batch costs."""

    ranks: int
    steps_per_s: float
    values_per_step: float
    runs: int = 1
    """The ranks belong to these runs in equal parts."""
    batch_s: float = 6.7e-3
    """CPU time of a batch, regardless of its content."""
    values_per_core_s: float = 4.1e6
    locked_s: float = 3.6e-3
    """Time for which a batch holds the lock of its run's row."""

    def cpu_s(self, steps: int) -> float:
        """Return the CPU time of a batch with so many steps."""
        return self.batch_s + steps * self.values_per_step / self.values_per_core_s


@dataclass(frozen=True)
class Result:
    """What the simulated ranks and collectors did; rates are means over the whole time."""

    batches_per_s: float
    values_per_s: float
    cores: float
    """Mean number of busy cores."""
    waiting: int
    """Batches that are not acknowledged at the end."""
    caught_up_s: float
    """Time after an outage until what was packed before its end is acknowledged."""
    ack_s_p99: float
    """From the packing of a batch to its acknowledgement."""


@dataclass
class _Rank:
    run: int
    phase: float
    """Where it is in its step and in its interval at the begin, 0 to 1."""
    backoff: Backoff
    batches: deque[tuple[float, int]] = field(default_factory=deque)
    """(time of packing, steps) of each batch that is not acknowledged."""
    packed_steps: int = 0
    busy: bool = False
    """An exchange is under way, or it waits before the next attempt."""


class Simulation:
    """Ranks and collectors on simulated time; start at `run`."""

    def __init__(self, fleet: Fleet, cores: int, seed: int = 0) -> None:
        draw = random.Random(seed)
        self._fleet = fleet
        self._now_s = 0.0
        self._ranks = [
            _Rank(n % fleet.runs, draw.random(), Backoff(lambda: self._now_s, draw))
            for n in range(fleet.ranks)
        ]
        self._core_free_s = [0.0] * cores
        self._run_free_s = [0.0] * fleet.runs
        self._busy_s = 0.0
        self._acknowledged: list[tuple[float, float, int]] = []
        """(time of packing, of the acknowledgement, steps) of each batch."""
        self._away_s = (math.inf, math.inf)
        self._events: list[tuple[float, int, Callable[[_Rank], None], _Rank]] = []
        self._order = itertools.count()  # of two events at the same time, the first comes first

    def run(self, seconds: float, away_s: tuple[float, float] = (math.inf, math.inf)) -> Result:
        """Simulate so many seconds; the collectors are away between the two times."""
        self._away_s = away_s
        for rank in self._ranks:
            self._later(INTERVAL_S * rank.phase, self._pack, rank)
        while self._events[0][0] <= seconds:
            self._now_s, _, action, rank = heapq.heappop(self._events)
            action(rank)
        waits = sorted(at - packed for packed, at, _ in self._acknowledged)
        waiting = [packed for rank in self._ranks for packed, _ in rank.batches]
        steps = sum(steps for _, _, steps in self._acknowledged)
        return Result(
            batches_per_s=len(waits) / seconds,
            values_per_s=steps * self._fleet.values_per_step / seconds,
            cores=self._busy_s / seconds,
            waiting=len(waiting),
            caught_up_s=self._caught_up_s(waiting),
            ack_s_p99=waits[int(0.99 * len(waits))],
        )

    def _caught_up_s(self, waiting: list[float]) -> float:
        end_s = self._away_s[1]
        if end_s == math.inf:
            return 0.0
        if min(waiting, default=math.inf) <= end_s:
            return math.inf
        return max(at - end_s for packed, at, _ in self._acknowledged if packed <= end_s)

    def _later(self, at_s: float, action: Callable[[_Rank], None], rank: _Rank) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), action, rank))

    def _pack(self, rank: _Rank) -> None:
        done = int(self._now_s * self._fleet.steps_per_s + rank.phase)
        if done > rank.packed_steps:
            rank.batches.append((self._now_s, done - rank.packed_steps))
            rank.packed_steps = done
            self._send(rank)
        self._later(self._now_s + INTERVAL_S, self._pack, rank)

    def _send(self, rank: _Rank) -> None:
        """Send the oldest batch, unless an exchange is under way."""
        if rank.busy or not rank.batches:
            return
        rank.busy = True
        if self._away_s[0] <= self._now_s < self._away_s[1]:
            rank.backoff.failed(Away("the collectors are away"))
            self._later(rank.backoff.not_before, self._again, rank)
            return
        cpu_s = self._fleet.cpu_s(rank.batches[0][1])
        stored_s = max(self._now_s, self._core_free_s[0]) + cpu_s
        heapq.heapreplace(self._core_free_s, stored_s)
        self._busy_s += cpu_s
        stored_s = max(stored_s, self._run_free_s[rank.run] + self._fleet.locked_s)
        self._run_free_s[rank.run] = stored_s
        self._later(stored_s, self._took, rank)

    def _took(self, rank: _Rank) -> None:
        packed_s, steps = rank.batches.popleft()
        self._acknowledged.append((packed_s, self._now_s, steps))
        rank.backoff.succeeded()
        self._again(rank)

    def _again(self, rank: _Rank) -> None:
        rank.busy = False
        self._send(rank)


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate many ranks that send to collectors.")
    parser.add_argument("--ranks", type=int, default=10_000)
    parser.add_argument("--steps-per-s", type=float, default=0.5)
    parser.add_argument("--values-per-step", type=float, default=104)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--cores", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--away", type=float, nargs=2, default=(math.inf, math.inf))
    given = parser.parse_args()
    fleet = Fleet(given.ranks, given.steps_per_s, given.values_per_step, given.runs)
    found = Simulation(fleet, given.cores).run(given.seconds, tuple(given.away))
    print(json.dumps(asdict(found), indent=2))


if __name__ == "__main__":
    main()
