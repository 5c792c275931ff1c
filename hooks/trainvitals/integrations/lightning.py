"""The Trainer of Lightning (`lightning`, or the older package `pytorch_lightning`).

    trainer = L.Trainer(callbacks=[TrainvitalsCallback()], …)

The callback watches the LightningModule and its optimizers while the Trainer fits. The training
loss is what `training_step` returns; the steps, the planned steps, the step after a resume and
the hyper-parameters are the Trainer's.
"""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

from trainvitals.integrations.events import saved_checkpoint, watched
from trainvitals.monitor import Monitor
from trainvitals.recorder.batches import ObservedBatches

if TYPE_CHECKING or importlib.util.find_spec("lightning") is not None:
    from lightning.pytorch import Callback
else:
    from pytorch_lightning import Callback

VALIDATION_LOSSES = ("val_loss", "validation_loss", "valid_loss", "val/loss", "loss/val")


class TrainvitalsCallback(Callback):  # type: ignore[misc]  # no stubs where it is not installed
    """Watches each fit of a Trainer; `monitor` is the newest Monitor.

    `validation_loss` is the name under which the module logs the loss of a validation; None: the
    first of val_loss, validation_loss, valid_loss, val/loss, loss/val that is logged. The other
    options are those of `trainvitals.watch`.
    """

    def __init__(self, validation_loss: str | None = None, **options: Any) -> None:
        self.monitor: Monitor | None = None
        self._names = VALIDATION_LOSSES if validation_loss is None else (validation_loss,)
        self._options = options

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach to the module that the Trainer is about to train."""
        planned = trainer.estimated_stepping_batches
        found = {
            "config": dict(pl_module.hparams) or None,
            "total_steps": int(planned) if math.isfinite(planned) and planned > 0 else None,
            "start_step": trainer.global_step,
        }
        self.monitor = watched(pl_module, trainer.optimizers, **(found | self._options))
        observe_batches(trainer, self.monitor)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Record the number of the epoch, from 1."""
        if self.monitor is not None:
            self.monitor.log(epoch=trainer.current_epoch + 1)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:  # noqa: ARG002
        """Record that a checkpoint is saved."""
        saved_checkpoint(self.monitor, f"epoch {trainer.current_epoch + 1}")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Record the loss of a validation, except of the check before the training."""
        if self.monitor is None or trainer.sanity_checking:
            return
        found = (trainer.callback_metrics.get(name) for name in self._names)
        value = next((v for v in found if v is not None), None)
        if value is not None:
            self.monitor.loss(value, split="validation")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Report a training that ended with an exception as failed."""
        if self.monitor is not None:
            self.monitor.__exit__(type(exception), exception, exception.__traceback__)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Close the monitor: the diagnosis is printed."""
        if self.monitor is not None:
            self.monitor.close()


def observe_batches(trainer: Any, monitor: Monitor) -> None:
    """Let the flight recorder observe the Trainer's DataLoader until the monitor closes.

    Not with several loaders, nor with one that the Trainer makes again during the training, nor
    with one without a length, of which Lightning reads a batch ahead of the training.
    """
    loop = trainer.fit_loop
    combined = loop._combined_loader
    if combined is None or len(combined.flattened) != 1 or loop.max_batches == math.inf:
        return
    if trainer.reload_dataloaders_every_n_epochs:
        return
    loader = combined.flattened[0]
    observed = monitor.batches(loader)
    if observed is loader:
        return
    combined.flattened = [observed]
    # The iterator of the first epoch exists before any callback knows the optimizers.
    if isinstance(observed, ObservedBatches) and not loader.num_workers:
        iterators = combined._iterator.iterators
        iterators[0] = observed.adopted(iterators[0])

    def restore() -> None:
        if combined.flattened[0] is observed:
            combined.flattened = [loader]

    monitor._at_close.append(restore)
