"""The engines of PyTorch Ignite.

    TrainvitalsHandler(model, optimizer, loss=criterion).attach(trainer, evaluator)

The handler watches the model and the optimizer while the trainer runs. Epochs, planned steps, the
step after a resume and saved checkpoints are the trainer's; the validation loss is a metric of the
evaluator.
"""

from __future__ import annotations

import inspect
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers.checkpoint import CheckpointEvents
from torch import nn

from trainvitals.ending import ending_of
from trainvitals.integrations.backward import Backwards
from trainvitals.integrations.events import attached, close_left, saved_checkpoint, watched
from trainvitals.monitor import Monitor

VALIDATION_LOSSES = ("loss", "val_loss", "validation_loss", "nll")


class TrainvitalsHandler:
    """Watches each run of a trainer; `monitor` is the newest Monitor.

    `loss` is the loss module. Without a module, the loss is what `backward` is called on.
    `validation_loss` is the name of the evaluator's metric; None: the first of loss, val_loss,
    validation_loss, nll that it has. The other options are those of `trainvitals.watch`.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any = None,
        *,
        loss: Any = None,
        validation_loss: str | None = None,
        **options: Any,
    ) -> None:
        self.monitor: Monitor | None = None
        self._watched = model, optimizer
        self._loss = loss if isinstance(loss, nn.Module) else None
        self._names = VALIDATION_LOSSES if validation_loss is None else (validation_loss,)
        self._options = options

    def attach(self, trainer: Any, evaluator: Any = None) -> None:
        """Add the handlers to a trainer, and to the engine that evaluates validation data."""
        if not trainer.has_registered_events(CheckpointEvents.SAVED_CHECKPOINT):
            trainer.register_events(*CheckpointEvents)
        trainer.add_event_handler(Events.STARTED, self._started)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        trainer.add_event_handler(CheckpointEvents.SAVED_CHECKPOINT, self._saved)
        trainer.add_event_handler(Events.COMPLETED | Events.TERMINATE, self._ended)
        trainer.add_event_handler(Events.EXCEPTION_RAISED, self._raised)
        if evaluator is not None:
            evaluator.add_event_handler(Events.COMPLETED, self._evaluated)

    def _started(self, trainer: Any) -> None:
        close_left(self.monitor)
        attached(lambda: self._watch(trainer))

    def _watch(self, trainer: Any) -> None:
        state, batches = trainer.state, micro_batches(trainer)
        known = state.epoch_length is not None and state.max_epochs is not None
        found = {
            "config": {
                name: value
                for name in ("max_epochs", "epoch_length", "max_iters", "seed")
                if (value := getattr(state, name, None)) is not None
            },
            "total_steps": state.epoch_length * state.max_epochs // batches if known else None,
            "start_step": state.iteration // batches,
            "loss": self._loss,
        }
        model, optimizer = self._watched
        self.monitor = watched(model, optimizer, **(found | self._options))
        if self._loss is None:
            Backwards.of(self.monitor)
        observe_batches(trainer, self.monitor)

    def _epoch_started(self, trainer: Any) -> None:
        if self.monitor is not None:
            self.monitor.log(epoch=trainer.state.epoch)

    def _saved(self, trainer: Any) -> None:
        saved_checkpoint(self.monitor, f"epoch {trainer.state.epoch}")

    def _evaluated(self, evaluator: Any) -> None:
        found = (evaluator.state.metrics.get(name) for name in self._names)
        value = next((v for v in found if v is not None), None)
        if self.monitor is not None and value is not None:
            self.monitor.loss(value, split="validation")

    def _ended(self, trainer: Any) -> None:  # noqa: ARG002 - the signature of handlers
        if self.monitor is not None:
            self.monitor.close()

    def _raised(self, trainer: Any, error: BaseException) -> None:
        if self.monitor is not None:
            self.monitor._close(*ending_of(error))
        # With a handler of this event ignite raises nothing: the handlers of the program decide.
        handlers = trainer._event_handlers[Events.EXCEPTION_RAISED]
        owners = (getattr(handler[0], "__self__", None) for handler in handlers)
        if all(isinstance(owner, TrainvitalsHandler) for owner in owners):
            raise error


def observe_batches(trainer: Any, monitor: Monitor) -> None:
    """Let the flight recorder observe the trainer's DataLoader until the monitor closes.

    Not with a subclass of Engine: the one for resumable runs replaces the sampler of a DataLoader.
    """
    state = trainer.state
    loader = state.dataloader
    if type(trainer) is not Engine or loader is None:
        return
    observed = monitor.batches(loader)
    if observed is loader:
        return
    state.dataloader = observed

    def restore() -> None:
        if state.dataloader is observed:
            state.dataloader = loader

    monitor._at_close.append(restore)


def micro_batches(trainer: Any) -> int:
    """Return the number of iterations for each optimizer step, at least 1.

    It is known for the trainers of `create_supervised_trainer`; 1 for others.
    Source: ignite, `supervised_training_step(gradient_accumulation_steps=)`.
    """
    function = inspect.unwrap(trainer._process_function)
    if not inspect.isfunction(function):
        return 1
    steps = inspect.getclosurevars(function).nonlocals.get("gradient_accumulation_steps", 1)
    return steps if isinstance(steps, int) and steps > 0 else 1
