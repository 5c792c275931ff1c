"""The time of the next attempt: exponential back-off with jitter, at least `Retry-After`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from trainvitals.ship.http import Away, Unauthorised

DELAY_FIRST_S: Final = 0.5
DELAY_MAX_S: Final = 30.0
BREAKER_FAILURES: Final = 5
BREAKER_MAX_S: Final = 60.0
TOKEN_EVERY_S: Final = 60.0


class Backoff:
    """Counts failures in a row; `not_before` is the time of the next attempt on `clock`."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, jitter: random.Random | None = None
    ) -> None:
        self.failures = 0
        self.not_before = 0.0
        self._clock = clock
        # A separate generator: the training's random state must not change.
        self._jitter = jitter or random.Random()  # noqa: S311 - spreads retries, nothing secret

    @property
    def waits(self) -> bool:
        """Whether it is not yet time for the next attempt."""
        return self._clock() < self.not_before

    @property
    def is_open(self) -> bool:
        """Whether the collector must show that it is ready before a batch is sent."""
        return self.failures >= BREAKER_FAILURES

    def succeeded(self) -> None:
        """Reset the failures."""
        self.failures, self.not_before = 0, 0.0

    def failed(self, outcome: Away | Unauthorised) -> None:
        """Set the time of the next attempt."""
        if isinstance(outcome, Unauthorised):
            delay = TOKEN_EVERY_S
        else:
            most = BREAKER_MAX_S if self.is_open else DELAY_MAX_S
            delay = self._jitter.uniform(0.1, 1) * min(most, DELAY_FIRST_S * 2**self.failures)
            if outcome.after_s is not None:
                delay = max(delay, outcome.after_s)
        self.failures = min(self.failures + 1, 20)
        self.not_before = self._clock() + delay
