"""Processes, threads and time of a simulation: one thread runs at a time, in a repeatable order.

Comes in: code that uses `threading`, with `World.threading` in its place; a thread runs until it
          waits, and the clock then goes to the next event.
Goes out: `World.run`. What a run does follows from its seed alone.
Promise:  a killed process executes nothing more, not even a `finally`, until the run is over.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from functools import partial
from types import SimpleNamespace
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet


class Process:
    """What dies together. `at_kill`: what the system does for it then, such as closing files."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_alive = True
        self.at_kill: list[Callable[[], None]] = []

    def start(self, target: Callable[[], None]) -> None:
        """Run `target` in a new thread of this process."""
        thread = _Thread(self, target)
        self.world.threads.append(thread)
        self.world.after(0, partial(thread.go_on, None))

    def failpoint(self, place: str, weight: float = 1.0) -> None:
        """Perhaps kill the process here; then this does not return to its threads."""
        if self.is_alive and self.world.strikes(place, weight):
            self.kill()

    def kill(self) -> None:
        """Stop all threads of the process where they are."""
        self.is_alive = False
        for release in self.at_kill:
            release()
        running = self.world.running
        if running is not None and running.process is self:
            self.world.leave()


class _Thread:
    def __init__(self, process: Process, target: Callable[[], None]) -> None:
        self.process = process
        self.turn: object = None
        """Changes each time the thread begins to wait: an old event does not end a new wait."""
        self.greenlet = greenlet(target, process.world.hub)

    def go_on(self, turn: object, woken: bool = False) -> None:
        if self.process.is_alive and self.turn is turn and not self.greenlet.dead:
            world = self.process.world
            world.running, self.turn = self, None
            try:
                self.greenlet.switch(*[] if turn is None else [woken])
            finally:
                world.running = None


class World:
    """The clock, the events, the random numbers and the failures of one run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.hub = getcurrent()
        self.running: _Thread | None = None
        self.threads: list[_Thread] = []
        self.failures: Counter[str] = Counter()
        """Place → how often something failed there."""
        self.failure_rate = 0.0
        """The probability of a failure at each place."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._is_over = False
        self.threading = SimpleNamespace(
            Condition=partial(_Condition, self),
            Event=partial(_Event, self),
            Thread=partial(_LikeThread, self),
        )
        self.future = type("SimulatedFuture", (_Future,), {"world": self})

    def clock(self) -> float:
        return self.now

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call `call` outside of all threads, in `delay_s` seconds."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._numbers), call))

    def run(self, is_done: Callable[[], bool], until: float) -> bool:
        """Execute events until `is_done`; return False if it is not at the time `until`."""
        while not is_done():
            if self.now > until:
                return False
            self.now, _, call = heapq.heappop(self._events)
            call()
        return True

    def strikes(self, place: str, weight: float = 1.0) -> bool:
        """Draw whether something fails at this place, and count it."""
        happens = self.random.random() < self.failure_rate * weight
        self.failures[place] += happens
        return happens

    def wait(self, timeout_s: float | None, enlist: Callable[[Callable[[], None]], None]) -> bool:
        """Let others run until the timeout, or until what `enlist` receives is called."""
        thread = self.running
        assert thread is not None, "only a thread waits"
        turn = thread.turn = object()
        enlist(partial(self.after, 0, partial(thread.go_on, turn, True)))
        if timeout_s is not None:
            self.after(max(0.0, timeout_s), partial(thread.go_on, turn, False))
        return bool(self.leave())

    def sleep(self, duration_s: float) -> None:
        self.wait(duration_s, lambda _: None)

    def leave(self) -> Any:
        """Let the events go on; return when this thread is resumed."""
        if self._is_over:
            raise GreenletExit
        return self.hub.switch()

    def close(self) -> None:
        """End all threads that still wait."""
        self._is_over = True
        for thread in self.threads:
            if thread.greenlet and not thread.greenlet.dead:
                thread.greenlet.throw(GreenletExit)


class _Condition:
    """No lock is needed: a thread gives way only when it waits."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[Callable[[], None]] = []

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        pass

    def acquire(self, timeout: float = -1) -> bool:
        return True

    def release(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        return self._world.wait(timeout, self._waiting.append)

    def wait_for(self, holds: Callable[[], bool], timeout: float) -> bool:
        end = self._world.now + timeout
        while not holds() and self._world.now < end:
            self.wait(end - self._world.now)
        return holds()

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    notify = notify_all


class _Event:
    def __init__(self, world: World) -> None:
        self._condition = _Condition(world)
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._condition.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        return self._is_set or self._condition.wait(timeout) or self._is_set


class _LikeThread:
    """`threading.Thread`, in the process that makes it."""

    def __init__(
        self, world: World, *, target: Callable[..., None], args: tuple[Any, ...] = (), **_: Any
    ) -> None:
        assert world.running is not None
        self._process = world.running.process
        self._target = partial(target, *args)

    def start(self) -> None:
        self._process.start(self._target)

    def is_alive(self) -> bool:
        return self._process.is_alive


class _Future(futures.Future[Any]):
    """`concurrent.futures.Future`; to wait for its result takes simulated time."""

    world: World

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self.world.wait(timeout, lambda wake: self.add_done_callback(lambda _: wake()))
        return super().result(0)
