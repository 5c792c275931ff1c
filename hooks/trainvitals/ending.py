"""How a run ends: its state, the exception that ended it, the end or the fork of the process."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

from trainvitals.wire.sanitise import text

open_monitors: weakref.WeakSet[Any] = weakref.WeakSet()
"""The monitors of this process that are not closed."""
at_close: list[Callable[[Any], object]] = []
"""Functions that get the last Diagnosis of each monitor that closes."""


class StopTraining(Exception):  # noqa: N818 - like StopIteration: a request, not an error
    """Raise it in `on_finding` to end the training; `optimizer.step()` then raises it."""


def ending_of(error: BaseException | None) -> tuple[str, str]:
    """Return the state in which a run ended with `error`, and its description."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished", ""
    if isinstance(error, (StopTraining, KeyboardInterrupt)):
        return "stopped", type(error).__name__
    return "failed", described(error)


def described(error: BaseException) -> str:
    """Return an exception's class and message, also if its `__str__` raises."""
    return f"{type(error).__name__}: {text(error)}"


def closed(diagnosis: Any) -> None:
    """Give the last diagnosis of a monitor to the functions in `at_close`."""
    for told in at_close:
        told(diagnosis)


def close_all() -> None:
    """Close every open monitor, at the end of the process."""
    error = getattr(sys, "last_value", None)  # set when an exception ends the interpreter
    for monitor in list(open_monitors):
        # A notebook also sets it for exceptions that did not end the training.
        monitor._close(*ending_of(None if id(error) == monitor._error_before else error))


def _after_fork() -> None:
    for monitor in list(open_monitors):
        monitor._forget()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
