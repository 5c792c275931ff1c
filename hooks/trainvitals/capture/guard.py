"""Exceptions raised by trainvitals never reach the user's code.

Each exception is counted; after three of one class the probe is switched off and reported.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from trainvitals.wire.sanitise import text

log = logging.getLogger("trainvitals")

ERRORS_MAX = 3


class Probe:
    """A block whose exceptions are given to `Guard.failed`.

    A class, because contextlib's managers cost five times as much, at every step.
    """

    __slots__ = ("_guard", "_name")

    def __init__(self, guard: Guard, name: str) -> None:
        self._guard = guard
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._guard.failed(self._name, error)
        return True


class Guard:
    """Runs probes. `off` contains the names of the probes that are switched off."""

    def __init__(self, report: Callable[[str, str], None]) -> None:
        """`report` is called with a probe's name and the reason when it is switched off."""
        self._errors: Counter[tuple[str, str]] = Counter()
        self._report = report
        self.off: set[str] = set()
        self.loss = Probe(self, "loss")

    def probe(self, name: str) -> Probe:
        """Run a block and catch its exceptions. Check `name in off` before expensive work."""
        return Probe(self, name)

    def failed(self, name: str, error: Exception) -> None:
        """Count an exception that a probe raised."""
        kind = type(error).__name__
        self._errors[name, kind] += 1
        log.debug("The probe %s failed.", name, exc_info=True)
        if self._errors[name, kind] == ERRORS_MAX and name not in self.off:
            self.off.add(name)
            reason = (
                f"monitor degraded: {name} failed {ERRORS_MAX} times with {kind}: {text(error)}"
            )
            log.warning("%s. It is switched off; the training goes on.", reason)
            self._report(name, reason)
