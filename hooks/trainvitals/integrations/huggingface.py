"""The Trainer of Hugging Face.

    trainer = Trainer(model, args, callbacks=[TrainvitalsCallback()], …)

The callback watches the model and the optimizer while the Trainer trains. Steps, planned steps, the
step after a resume, hyper-parameters, the training loss and the evaluation loss are the Trainer's.
Other numbers that the Trainer logs, such as TRL's rewards, are recorded as `log/<name>`. It logs
after its step, so they appear at the next step.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

from transformers import Trainer, TrainerCallback

from trainvitals.integrations.events import (
    no_indices,
    records,
    report_exceptions,
    saved_checkpoint,
    watched,
)
from trainvitals.integrations.generated_rows import rows_of
from trainvitals.monitor import Monitor

report_exceptions(Trainer, "train")

UNKNOWN_ITERATOR: Final = "the Trainer reads its batches from a {kind}, not a loader of Accelerate"
NO_METHOD: Final = (
    "this version of transformers has no Trainer.get_batch_samples, in which batches are observed"
)
EVALUATION_LOSS = "eval_loss"
MEASURED: Final = frozenset({"loss", "grad_norm", "learning_rate", "epoch"})
"""Entries of the Trainer's logs that the monitor measures itself, or that number the steps."""


class TrainvitalsCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no stubs here
    """Watches each training of a Trainer; `monitor` is the newest Monitor.

    Options are those of `trainvitals.watch`; `run`, `config`, `total_steps` and `start_step` are
    the Trainer's unless they are given.
    """

    def __init__(self, **options: Any) -> None:
        self.monitor: Monitor | None = None
        self._options = options
        self._batches: tuple[Any, Any] = (None, None)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,  # noqa: ARG002 - the base class's signature
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Attach to the model that the Trainer is about to train."""
        found = {
            "run": getattr(args, "run_name", None),
            "config": args.to_dict(),
            "total_steps": state.max_steps if state.max_steps > 0 else None,
            "start_step": state.global_step,
        }
        self.monitor = watched(model, optimizer, **(found | self._options))
        if not OBSERVES_BATCHES:
            no_indices(self.monitor, NO_METHOD)
        capture = self.monitor._capture
        if capture is not None and args.gradient_accumulation_steps > 1 and sums_losses(model):
            capture.scalars.are_parts = True

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Record the number of the epoch, from 1."""
        if self.monitor is not None:
            self.monitor.log(epoch=int(state.epoch or 0) + 1)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Record a checkpoint under the name of its folder."""
        saved_checkpoint(self.monitor, f"checkpoint-{state.global_step}")

    def on_log(
        self,
        args: Any,  # noqa: ARG002
        state: Any,  # noqa: ARG002
        control: Any,  # noqa: ARG002
        logs: Any = None,
        **_: Any,
    ) -> None:
        """Record the numbers that the Trainer logs and the monitor does not measure."""
        if self.monitor is not None:
            self.monitor.log(**logged_numbers(logs or {}))

    def on_evaluate(
        self,
        args: Any,  # noqa: ARG002
        state: Any,  # noqa: ARG002
        control: Any,  # noqa: ARG002
        metrics: Any = None,
        **_: Any,
    ) -> None:
        """Record the loss of an evaluation as that of the split `validation`."""
        value = (metrics or {}).get(EVALUATION_LOSS)
        if self.monitor is not None and value is not None:
            self.monitor.loss(value, split="validation")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Close the monitor: the diagnosis is printed."""
        self._batches = (None, None)
        if self.monitor is not None:
            self.monitor.close()

    def observed(self, iterator: Any) -> Any:
        """Return an iterator over the same batches that records their sample indices.

        `iterator` is the Trainer's, the same one for each step of an epoch.
        """
        if self.monitor is None or not records(self.monitor):
            return iterator
        if self._batches[0] is not iterator:
            self._batches = iterator, observed_batches(iterator, self.monitor)
        return self._batches[1]

    def batches_read(self, trainer: Any) -> None:
        """Tell a trainer that divides its batches by itself that those of a step are read."""
        if self.monitor is None or not records(self.monitor):
            return
        if (rows := rows_of(trainer)) is not None:
            rows.read(self.monitor)


def observed_batches(iterator: Iterator[Any], monitor: Monitor) -> Iterator[Any]:
    """Return the iterator that the Trainer's loader makes while the monitor observes it.

    The Trainer's own iterator is then never started, so it draws no random number. It is the
    generator of `DataLoaderShard.__iter__`, whose argument is the loader, also the one that skips
    batches after a resume. An iterator that is not such a generator is returned.
    """
    kind: str = type(iterator).__name__
    if inspect.isgenerator(iterator):
        if inspect.getgeneratorstate(iterator) == inspect.GEN_CREATED:
            loader: Any = inspect.getgeneratorlocals(iterator).get("self")
            observed = monitor.batches(loader)
            return iterator if observed is loader else iter(observed)
        kind = "generator that is started"
    no_indices(monitor, UNKNOWN_ITERATOR.format(kind=kind))
    return iterator


def observe_batches(trainer: type) -> bool:
    """Let the callbacks of each Trainer observe the batches that `get_batch_samples` reads.

    No event of a callback contains the iterator. Arguments and results are unchanged. False, and
    nothing is changed, if the class has no such method, as in transformers before 4.46.
    """
    original = getattr(trainer, "get_batch_samples", None)
    if original is None:
        return False

    @functools.wraps(original)
    def get_batch_samples(self: Any, epoch_iterator: Any, *args: Any, **kwargs: Any) -> Any:
        found = [c for c in self.callback_handler.callbacks if isinstance(c, TrainvitalsCallback)]
        for callback in found:
            epoch_iterator = callback.observed(epoch_iterator)
        samples = original(self, epoch_iterator, *args, **kwargs)
        for callback in found:
            callback.batches_read(self)
        return samples

    trainer.get_batch_samples = get_batch_samples  # type: ignore[attr-defined]
    return True


OBSERVES_BATCHES: Final = observe_batches(Trainer)


def sums_losses(model: Any) -> bool:
    """Whether the Trainer gives this model the number of targets of the whole step.

    The losses of the micro-batches are then parts of the step's loss, and their sum is the loss.
    Source: transformers, `Trainer.model_accepts_loss_kwargs`.
    """
    inner = getattr(model, "module", model)
    accepts = getattr(inner, "accepts_loss_kwargs", None)
    if accepts is not None:
        return bool(accepts)
    parameters = inspect.signature(inner.forward).parameters.values()
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def logged_numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a training log that are not measured otherwise.

    Entries of an evaluation (`eval_`) and of the training's summary (`train_`) are left out.
    """
    return {
        name: float(value)
        for name, value in logs.items()
        if isinstance(value, int | float)
        and name not in MEASURED
        and not name.startswith(("eval_", "train_"))
    }
