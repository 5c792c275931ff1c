"""Identify the initialisers of a run's parameters, once, in a separate thread.

Comes in: the parameters before the first update. Goes out: one event of kind `initialisers`.
Promise:  in the training thread, a copy of some entries of each tensor; the thread takes at most
          about `CPU_S_MAX` and never waits for the training.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from trainvitals.api.schema import Initialiser
from trainvitals.capture.guard import Guard
from trainvitals.structure.initialisers import ENTRIES_MAX, Sample, identified, sampled
from trainvitals.structure.parameters import Parameter
from trainvitals.wire import Event, EventKind, Record

PARAMETERS_MAX: Final = 512
CPU_S_MAX: Final = 0.05


class InitialValues:
    """The initialisers of a run. `cpu_s` is the CPU time of the thread, in seconds."""

    def __init__(self, emit: Callable[[Record], None], guard: Guard) -> None:
        self._emit = emit
        self._guard = guard
        self.cpu_s = 0.0
        self._thread: threading.Thread | None = None
        self._event: Event | None = None
        self.is_taken = False

    def take(self, parameters: Sequence[Parameter], step: int) -> None:
        """Copy entries of at most 512 parameters, weight matrices first, and start the thread."""
        self.is_taken = True
        with self._guard.probe("initialisers"):
            self._take(parameters, step)

    def _take(self, parameters: Sequence[Parameter], step: int) -> None:
        chosen = sorted(parameters, key=lambda p: p.tensor.dim() < 2)[:PARAMETERS_MAX]
        samples = [s for p in chosen if (s := sampled(p, ENTRIES_MAX)) is not None]
        if not samples:
            return
        self._thread = threading.Thread(
            target=self._identify,
            args=(samples, len(parameters), step),
            name="trainvitals-initialisers",
            daemon=True,
        )
        self._thread.start()

    def emit(self, *, wait_s: float = 0.0) -> None:
        """Emit the event once, when it is complete; called in the training thread.

        The thread does not emit it: records are counted in the training thread.
        """
        if self._thread is not None and wait_s:
            self._thread.join(wait_s)
        event, self._event = self._event, None
        if event is not None:
            self._emit(event)

    def _identify(self, samples: list[Sample], count: int, step: int) -> None:
        started = time.thread_time()
        found: dict[str, Initialiser] = {}
        try:
            for sample in samples:
                if time.thread_time() - started > CPU_S_MAX:
                    break
                found |= identified([sample._replace(entries=sample.entries.cpu())])
            text = f"{len(found)} of {count} parameters"
            attributes: dict[str, str | float] = {
                name: msgspec.json.encode(one).decode() for name, one in found.items()
            }
            self._event = Event(step, time.time(), EventKind.INITIALISERS, text, attributes)
        except Exception as error:  # noqa: BLE001 - never into the training
            self._guard.failed("initialisers", error)
        self.cpu_s = time.thread_time() - started
