"""The models of Keras 3 with the backend torch.

    model.fit(x, y, callbacks=[TrainvitalsCallback()], …)

The callback watches the model and the optimizer while the model is fitted. The training loss, the
validation loss, epochs, planned steps, learning rate and hyper-parameters are those of `fit`; the
number of the first step is the optimizer's number of iterations, which a saved model keeps.
"""

from __future__ import annotations

import functools
import logging
import math
import sys
from typing import Any, Final

import keras
import torch
from torch import Tensor

from trainvitals.integrations.events import (
    attached,
    close_left,
    no_indices,
    records,
    report_exceptions,
    watched,
)
from trainvitals.integrations.keras_layers import LayersOf
from trainvitals.integrations.stand_in import StandIn
from trainvitals.monitor import Monitor

log = logging.getLogger("trainvitals")
report_exceptions(keras.Model, "fit")

NO_ITERATOR: Final = "this version of Keras does not read its batches from an epoch_iterator in fit"
SEVERAL: Final = "with steps_per_execution, fit reads the batches of several steps at once"


class TrainvitalsCallback(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Watches each `fit` of a model; `monitor` is the newest Monitor, None with another backend.

    Options are those of `trainvitals.watch`; `config`, `total_steps` and `start_step` are those of
    `fit` unless they are given. The loss is what the model's `compute_loss` returns: a `train_step`
    of your own that computes it otherwise calls `callback.monitor.loss(loss)`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._stand_in: StandIn | None = None
        self._layers: LayersOf | None = None
        self._options = options

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - the base class's signature
        """Attach to the model that is about to be trained."""
        close_left(self.monitor)
        self._close()
        if keras.backend.backend() != "torch":
            log.warning(
                "Keras trains with the backend %s, and trainvitals watches torch. Set "
                "KERAS_BACKEND=torch. The training goes on, unwatched.",
                keras.backend.backend(),
            )
            return
        attached(self._attach)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Record the number of the epoch, from 1."""
        if self.monitor is not None:
            self.monitor.log(epoch=epoch + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Record the loss of the epoch's validation."""
        value = (logs or {}).get("val_loss")
        if self.monitor is not None and value is not None:
            self.monitor.loss(value, split="validation")

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        """Close the monitor: the diagnosis is printed."""
        self._close()

    def _attach(self) -> None:
        model, optimizer = self.model, self.model.optimizer
        parameters = [variable.value for variable in model.trainable_variables]
        self._layers = LayersOf(model)
        self._stand_in = StandIn.of(
            optimizer,
            "apply",
            [parameters],
            lambda: [rate(optimizer)],
            is_step=lambda: updates_next(optimizer),
        )
        steps, epochs = (self.params or {}).get("steps"), (self.params or {}).get("epochs")
        start = int(optimizer.iterations)
        found: dict[str, Any] = {
            "config": configuration(model) | {"epochs": epochs, "steps_per_epoch": steps},
            "total_steps": start + steps * epochs if steps and epochs else None,
            "start_step": start,
        }
        self.monitor = watched(self._layers.view, self._stand_in, **(found | self._options))
        self.monitor._at_close.append(self._remove)
        self._observe_loss(model, self.monitor)
        if records(self.monitor):
            observe_batches(self.monitor)

    def _observe_loss(self, model: Any, monitor: Monitor) -> None:
        original = model.compute_loss

        @functools.wraps(original)
        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            loss = original(*args, **kwargs)
            if isinstance(loss, Tensor) and loss.requires_grad and torch.is_grad_enabled():
                monitor.loss(loss)
            return loss

        model.__dict__["compute_loss"] = compute_loss

    def _close(self) -> None:
        self._remove()
        if self.monitor is not None:
            self.monitor.close()

    def _remove(self) -> None:
        if self._stand_in is not None:
            self._stand_in.remove()
        if self._layers is not None:
            self._layers.remove()
            self._layers.model.__dict__.pop("compute_loss", None)


def observe_batches(monitor: Monitor) -> None:
    """Let the flight recorder observe each loader that the running `fit` makes for an epoch.

    No attribute of the model contains the object that makes them: `fit` has it in a local variable.
    """
    iterator = epoch_iterator()
    original = getattr(iterator, "_get_iterator", None)
    if original is None:
        return no_indices(monitor, NO_ITERATOR)
    if iterator.steps_per_execution != 1:
        return no_indices(monitor, SEVERAL)
    iterator._get_iterator = lambda: monitor.batches(original())
    return None


def epoch_iterator() -> Any:
    """Return the local variable `epoch_iterator` of the `fit` that calls this thread's callbacks.

    None if there is none. The innermost `fit` counts: a callback may fit another model.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "fit" and "epoch_iterator" in frame.f_code.co_varnames:
            return frame.f_locals.get("epoch_iterator")
        frame = frame.f_back  # type: ignore[assignment]
    return None


def rate(optimizer: Any) -> float:
    """Return the learning rate of an optimizer's next step; NaN on a device, which would wait."""
    value = optimizer.learning_rate
    value = getattr(value, "value", value)
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return math.nan
    return float(value)


def updates_next(optimizer: Any) -> bool:
    """Whether the next call of `apply` changes the weights, and does not only add up gradients.

    Source: Keras, `Optimizer(gradient_accumulation_steps=)`.
    """
    steps = optimizer.gradient_accumulation_steps
    return not steps or (int(optimizer._iterations) + 1) % steps == 0


def configuration(model: Any) -> dict[str, Any]:
    """Return the hyper-parameters of a compiled model: its optimizer's, and its loss."""
    optimizer = {f"optimizer/{k}": v for k, v in model.optimizer.get_config().items()}
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else getattr(loss, "name", type(loss).__name__)
    return {"model": model.name, "loss": name} | optimizer
