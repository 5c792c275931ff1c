"""Exceptions raised by trainvitals never reach the user's code.

Each exception is counted; after three of one class the probe is switched off and reported.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainvitals.wire.sanitise import text

log = logging.getLogger("trainvitals")

ERRORS_MAX = 3


class Guard:
    """Runs probes. `off` contains the names of the probes that are switched off."""

    def __init__(self, report: Callable[[str, str], None]) -> None:
        """`report` is called with a probe's name and the reason when it is switched off."""
        self._errors: Counter[tuple[str, str]] = Counter()
        self._report = report
        self.off: set[str] = set()

    @contextmanager
    def probe(self, name: str) -> Iterator[None]:
        """Run a block and catch its exceptions. Check `name in off` before expensive work."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - counted and reported in `failed`
            self.failed(name, error)

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
