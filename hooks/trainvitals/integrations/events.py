"""Functions that several integrations share."""

from __future__ import annotations

import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn

from trainvitals.ending import described, ending_of
from trainvitals.monitor import Monitor
from trainvitals.watching import watch
from trainvitals.wire import Event, EventKind

log = logging.getLogger("trainvitals")

LEFT: Final = "The training was left without its last event."
_watched: weakref.WeakKeyDictionary[Monitor, int] = weakref.WeakKeyDictionary()
"""The monitors of the integrations, and the threads that opened them.

The monitors of the program itself are not closed here.
"""


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


def watched(model: Any, optimizer: Any, **options: Any) -> Monitor:
    """Watch a training; close as failed a monitor that is still attached to its model or optimizer.

    Not every framework reports an exception to its callbacks.
    """
    for older in _living_monitors():
        if _is_of(older, model, optimizer):
            close_left(older)
    monitor = watch(model, optimizer, **options)
    _watched[monitor] = threading.get_ident()
    return monitor


def close_left(monitor: Monitor | None) -> None:
    """Close a monitor as failed if it is open although its training is not running any more."""
    if monitor is not None and not monitor._closed:
        monitor._close("failed", LEFT)


def report_exceptions(owner: type, name: str) -> None:
    """Wrap the method `name` of a framework's trainer class, which trains and calls callbacks.

    For frameworks that report no exception to their callbacks. An exception that leaves the method
    closes the monitors that the integrations opened in this call, and in its thread. The exception,
    the arguments and the result are unchanged. A second call for the same method changes nothing.
    """
    original = getattr(owner, name)
    if getattr(original, "_reports_exceptions", False):
        return

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        before = _living_monitors()
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            for monitor in _living_monitors() - before:
                if _watched.get(monitor) == threading.get_ident():
                    monitor._close(*ending_of(error))
            raise

    method._reports_exceptions = True  # type: ignore[attr-defined]
    setattr(owner, name, method)


def _living_monitors() -> set[Monitor]:
    # `keyrefs` is a copy: another thread may add a monitor, and iterating would then raise.
    return {monitor for ref in _watched.keyrefs() if (monitor := ref()) is not None}


def _is_of(monitor: Monitor, model: Any, optimizer: Any) -> bool:
    capture = monitor._capture
    if capture is None:
        return False
    wanted = optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]
    if any(one is other for one in wanted for other in capture.optimizers):
        return True
    mine = _parameters(model)
    return bool(mine) and mine == _parameters(capture.models)


def _parameters(models: Any) -> set[int]:
    """Return the identities of the parameters: a callback may watch a new view of a model."""
    found = models.values() if isinstance(models, Mapping) else [models]
    return {id(p) for one in found if isinstance(one, nn.Module) for p in one.parameters()}


def saved_checkpoint(monitor: Monitor | None, text: str = "") -> None:
    """Record that the program saved a checkpoint after the last step; `text` says which."""
    if monitor is None or monitor._closed or (capture := monitor._capture) is None:
        return
    capture._emit(Event(max(0, capture.step), time.time(), EventKind.CHECKPOINT, text))


def records(monitor: Monitor | None) -> bool:
    """Whether the flight recorder is on, and needs the sample indices of the batches."""
    return monitor is not None and not monitor._closed and monitor._recorder is not None


def no_indices(monitor: Monitor, reason: str) -> None:
    """Record why the sample indices of a training cannot be observed."""
    if monitor._recorder is not None:
        monitor._recorder.no_indices(reason)
