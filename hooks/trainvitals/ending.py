"""How a run ends: the state, and the exception that ended it."""

from __future__ import annotations

from trainvitals.wire.sanitise import text


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
