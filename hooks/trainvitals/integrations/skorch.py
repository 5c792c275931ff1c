"""The nets of skorch.

    net = NeuralNetClassifier(Net, callbacks=[TrainvitalsCallback()], …)

The callback watches the module, the optimizer and the criterion while the net is fitted. The
validation loss, epochs, planned steps, hyper-parameters, checkpoints of skorch's `Checkpoint` and,
in `partial_fit`, the number of the first step are the net's.
"""

from __future__ import annotations

from typing import Any, Final

from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn

from trainvitals.integrations.backward import Backwards
from trainvitals.integrations.events import (
    attached,
    close_left,
    report_exceptions,
    saved_checkpoint,
    watched,
)
from trainvitals.monitor import Monitor

report_exceptions(NeuralNet, "partial_fit")

MODULES: Final = ("module", "criterion", "optimizer")
"""Parameters of a net that name classes; their own parameters have the prefix `<name>__`."""
CHECKPOINT: Final = "event_cp"
"""The entry of the history in which skorch's `Checkpoint` records that it saved."""


class TrainvitalsCallback(Callback):  # type: ignore[misc]  # skorch has no stubs
    """Watches each fit of a net; `monitor` is the newest Monitor, None in a copy of the callback.

    Options are those of `trainvitals.watch`; `config`, `total_steps` and `start_step` are the
    net's unless they are given. A callback that loads a checkpoint must come before this one.
    """

    def __init__(self, **options: Any) -> None:
        self.monitor: Monitor | None = None
        self._options = options

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002
        """Return the options, from which scikit-learn makes a copy of the callback."""
        return dict(self._options)

    def set_params(self, **params: Any) -> TrainvitalsCallback:
        """Change options of the next fit."""
        self._options |= params
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"monitor": None}

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **_: Any) -> None:  # noqa: ARG002, N803
        """Attach to the module that the net is about to train."""
        close_left(self.monitor)
        attached(lambda: self._attach(net))

    def on_epoch_begin(self, net: Any, **_: Any) -> None:
        """Record the number of the epoch, from 1, and a checkpoint of the one before."""
        if self.monitor is not None:
            self.monitor.log(epoch=len(net.history))
            self._record_checkpoint(net, -2)

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        """Record the loss of the epoch's validation."""
        loss = net.history[-1].get("valid_loss")
        if self.monitor is not None and loss is not None:
            self.monitor.loss(loss, split="validation")

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **_: Any) -> None:  # noqa: ARG002, N803
        """Close the monitor: the diagnosis is printed."""
        self._record_checkpoint(net, -1)
        self._close()

    def _attach(self, net: Any) -> None:
        criterion = usual_criterion(net)
        found: dict[str, Any] = {
            "config": configuration(net),
            "start_step": steps_done(net),
            "loss": criterion,
        }
        self.monitor = watched(net.module_, net.optimizer_, **(found | self._options))
        if criterion is None and "loss" not in self._options:
            Backwards.of(self.monitor)
        observe_batches(net, self.monitor)

    def _record_checkpoint(self, net: Any, index: int) -> None:
        if len(net.history) >= -index and net.history[index].get(CHECKPOINT):
            saved_checkpoint(self.monitor, f"epoch {net.history[index]['epoch']}")

    def _close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()


def observe_batches(net: Any, monitor: Monitor) -> None:
    """Let the flight recorder observe the DataLoader that the net makes for this training.

    The method is replaced for its next call only: skorch takes attributes for parameters.
    """
    original = net.get_iterator

    def get_iterator(dataset: Any, training: bool = False) -> Any:
        made = original(dataset, training=training)
        if not training:
            return made
        restore()
        return monitor.batches(made)

    def restore() -> None:
        if net.__dict__.get("get_iterator") is get_iterator:
            del net.__dict__["get_iterator"]

    net.__dict__["get_iterator"] = get_iterator
    monitor._at_close.append(restore)


def usual_criterion(net: Any) -> nn.Module | None:
    """Return the criterion if the net's loss is its result; None if the net overrides `get_loss`.

    A class that overrides `get_loss` may add terms: what it trains with is seen at `backward`.
    """
    is_own = not type(net).get_loss.__module__.startswith("skorch.")
    criterion = getattr(net, "criterion_", None)
    return None if is_own or not isinstance(criterion, nn.Module) else criterion


def steps_done(net: Any) -> int:
    """Return the number of training batches in a net's history, which `fit` empties."""
    return sum(epoch.get("train_batch_count", 0) for epoch in net.history)


def configuration(net: Any) -> dict[str, Any]:
    """Return the hyper-parameters of a net: numbers, texts, and names of classes."""
    kept: dict[str, Any] = {}
    for name, value in net.get_params(deep=False).items():
        if isinstance(value, str | int | float | bool):
            kept[name] = value
        elif name in MODULES:
            kept[name] = getattr(value, "__name__", type(value).__name__)
    return kept
