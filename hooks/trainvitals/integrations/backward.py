"""The losses on which `backward` is called, for programs whose loss is not observed otherwise.

Comes in: calls of torch.autograd.backward and GradScaler.scale. Goes out: the loss, before it was
scaled, to a function.
Promise:  arguments, results and exceptions of torch's functions are unchanged; exceptions raised by
          trainvitals never reach the program.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from trainvitals.monitor import Monitor

log = logging.getLogger("trainvitals")


class Backwards:
    """Calls `receive` with the loss of each backward, None if it is no scalar, until `remove`."""

    def __init__(self, receive: Callable[[Tensor | None], None]) -> None:
        self._receive = receive
        self._scaled: tuple[weakref.ref[Tensor], Tensor] | None = None
        self._wrapped: list[tuple[Any, str, Any]] = []

    @classmethod
    def of(cls, monitor: Monitor) -> Backwards:
        """Return an installed one that gives the losses to `monitor` until it is closed.

        A step's loss is the sum of the losses since the step before it: its gradient is the one
        that the optimizer uses, whether the program divides a loss by its micro-batches or not.
        """
        import torch

        capture = monitor._capture
        if capture is not None:
            capture.scalars.are_parts = True

        def receive(loss: Tensor | None) -> None:
            if loss is not None and capture is not None and not monitor._closed:
                capture.loss(loss, unless_hooked=True)

        backwards = cls(receive)
        if not monitor._closed:
            backwards.install(torch)
            monitor._at_close.append(backwards.remove)
        return backwards

    def install(self, torch: Any) -> None:
        """Observe the functions of the module `torch`."""
        self._wrap(torch.autograd, "backward", before=self._backward)
        self._wrap(torch.amp.GradScaler, "scale", result=self._was_scaled)

    def remove(self) -> None:
        """Restore torch's functions, unless other code has replaced them since. Safe to call
        twice."""
        self._receive = lambda _: None
        for owner, name, replaced in self._wrapped:
            if getattr(owner, name) is replaced:
                setattr(owner, name, replaced.__wrapped__)
        self._wrapped = []

    def _was_scaled(self, scaled: Tensor, _scaler: object, outputs: Any, *_: Any) -> None:
        # The loss that counts is the one before GradScaler multiplied it.
        if hasattr(scaled, "grad_fn"):
            self._scaled = weakref.ref(scaled), outputs

    def _backward(self, tensors: Any, *_: Any, **__: Any) -> None:
        self._receive(self._loss_of(tensors))

    def _loss_of(self, tensors: Any) -> Tensor | None:
        """Return the loss of a backward: a single scalar, unscaled."""
        found = list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]
        if len(found) != 1 or getattr(found[0], "numel", lambda: 0)() != 1:
            return None
        scaled, self._scaled = self._scaled, None
        if scaled is not None and scaled[0]() is found[0]:
            return scaled[1]
        loss: Tensor = found[0]
        return loss

    def _wrap(self, owner: Any, name: str, **observers: Callable[..., None]) -> None:
        original = getattr(owner, name, None)
        if original is not None:
            replaced = observed(original, **observers)
            setattr(owner, name, replaced)
            self._wrapped.append((owner, name, replaced))


def observed(
    original: Callable[..., Any],
    *,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
    result: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Return a function that also calls the others with its arguments.

    `result` gets what `original` returned, too.
    """

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            quietly(before, *args, **kwargs)
        returned = original(*args, **kwargs)
        if after is not None:
            quietly(after, *args, **kwargs)
        if result is not None:
            quietly(result, returned, *args, **kwargs)
        return returned

    return replaced


def quietly(function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Call a function; its exceptions are logged for debugging, and do not reach the program."""
    try:
        function(*args, **kwargs)
    except Exception:
        log.debug("The training could not be observed.", exc_info=True)
