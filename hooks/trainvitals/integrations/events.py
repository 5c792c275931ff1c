"""What several integrations record in the same way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from trainvitals.ending import described
from trainvitals.monitor import Monitor
from trainvitals.wire import Event, EventKind

log = logging.getLogger("trainvitals")


def attached(attach: Callable[[], None]) -> None:
    """Call a function that attaches to a training; an exception becomes one warning."""
    try:
        attach()
    except Exception as error:
        log.warning(
            "trainvitals could not attach (%s). The training goes on, unwatched.",
            described(error),
            exc_info=log.isEnabledFor(logging.DEBUG),
        )


def saved_checkpoint(monitor: Monitor | None, text: str = "") -> None:
    """Record that the program saved a checkpoint after the last step; `text` says which."""
    if monitor is None or monitor._closed or (capture := monitor._capture) is None:
        return
    capture._emit(Event(max(0, capture.step), time.time(), EventKind.CHECKPOINT, text))
