"""The Learner of fastai.

    learn = Learner(dls, model, cbs=TrainvitalsCallback(), …)

The callback watches the model and the optimizer while the Learner fits. The training loss, the
validation loss, epochs, planned steps, learning rates and hyper-parameters are the Learner's.
Searches for a learning rate (`lr_find`) are not watched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from fastai.callback.core import Callback
from fastai.data.load import DataLoader
from fastai.learner import Learner, SkipToEpoch
from torch import Tensor
from torch.optim import Optimizer

from trainvitals.integrations.events import (
    attached,
    close_left,
    no_indices,
    records,
    report_exceptions,
    watched,
)
from trainvitals.integrations.stand_in import StandIn
from trainvitals.monitor import Monitor

report_exceptions(Learner, "fit")

NO_BATCHES: Final = "the DataLoader of fastai does not cut its list of indices into batches"


class TrainvitalsCallback(Callback):  # type: ignore[misc]  # fastai has no types
    """Watches each fit of a Learner; `monitor` is the newest Monitor, None in a copy or a pickle.

    Options are those of `trainvitals.watch`; `config`, `total_steps` and `start_step` are the
    Learner's unless they are given.
    """

    # After the callbacks that add terms to the loss, before GradientAccumulation (6) divides it.
    order = 5

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._stand_in: StandIn | None = None
        self._options = options
        self._total: float | Tensor = 0.0
        self._count = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"monitor": None, "_stand_in": None}

    def before_fit(self) -> None:
        """Attach to the model that the Learner is about to train."""
        close_left(self.monitor)
        self.after_fit()
        learn = self.learn
        self.run = not hasattr(learn, "lr_finder") and not hasattr(learn, "gather_preds")
        if self.run:
            attached(self._attach)

    def before_train(self) -> None:
        """Record the number of the epoch, from 1."""
        if self.monitor is not None:
            self.monitor.log(epoch=self.learn.epoch + 1)

    def before_batch(self) -> None:
        """Record the sample indices of a training batch, if the flight recorder is on."""
        monitor = self.monitor
        if monitor is None or not self.learn.training or not records(monitor):
            return
        found = sample_indices(self.learn)
        if found is None:
            no_indices(monitor, NO_BATCHES)
        elif monitor._recorder is not None:
            monitor._recorder.delivered(found)

    def after_loss(self) -> None:
        """Record the training loss, or add the loss of a batch to that of the validation."""
        loss = getattr(self.learn, "loss_grad", None)
        if self.monitor is None or not isinstance(loss, Tensor):
            return
        loss = loss.as_subclass(Tensor)
        if self.learn.training:
            self.monitor.loss(loss)
        else:
            samples = len(self.learn.yb[0]) if len(self.learn.yb) else 0
            self._total, self._count = self._total + loss.mean() * samples, self._count + samples

    def before_validate(self) -> None:
        """Forget the losses of the validation before."""
        self._total, self._count = 0.0, 0

    def after_validate(self) -> None:
        """Record the mean loss over the samples of the validation."""
        if self.monitor is not None and self._count:
            self.monitor.loss(self._total / self._count, split="validation")

    def after_fit(self) -> None:
        """Close the monitor: the diagnosis is printed."""
        if self._stand_in is not None:
            self._stand_in.remove()
        if self.monitor is not None:
            self.monitor.close()

    def _attach(self) -> None:
        learn = self.learn
        found: dict[str, Any] = {
            "config": configuration(learn),
            "total_steps": batches(learn, int(learn.n_epoch)),
            "start_step": batches(learn, first_epoch(learn)),
        }
        self.monitor = watched(learn.model, self._optimizer(learn), **(found | self._options))
        if self._stand_in is not None:
            self.monitor._at_close.append(self._stand_in.remove)

    def _optimizer(self, learn: Any) -> Any:
        if isinstance(getattr(learn.opt, "opt", None), Optimizer):
            return learn.opt.opt  # OptimWrapper contains an optimizer of torch
        groups = [list(group) for group in learn.opt.param_lists]
        self._stand_in = StandIn.of(learn.opt, "step", groups, lambda: rates(learn.opt))
        return self._stand_in


def sample_indices(learn: Any) -> npt.NDArray[np.int64] | None:
    """Return the sample indices of the Learner's current batch, int64; None if they are unknown.

    fastai's DataLoader draws the indices of an epoch at once and divides the list into batches of
    `bs`, also with worker processes. A loader without indices and one that makes its batches
    otherwise have no known indices. A skipped sample shifts those after it, which only the last
    batch of the epoch shows.
    Source: fastai, `DataLoader.__iter__`, `create_batches`.
    """
    loader, first = learn.dl, getattr(learn.xb[0], "shape", ()) if len(learn.xb) else ()
    drawn, size = getattr(loader, "_DataLoader__idxs", None), getattr(loader, "bs", None)
    divides = getattr(getattr(loader, "create_batches", None), "__func__", None)
    if divides is not DataLoader.create_batches or not loader.indexed:
        return None
    if not isinstance(drawn, Sequence) or not size:
        return None
    indices = drawn[learn.iter * size : (learn.iter + 1) * size]
    if not first or first[0] != len(indices) or not all(isinstance(i, int) for i in indices):
        return None
    return np.asarray(indices, np.int64)


def rates(optimizer: Any) -> Sequence[float]:
    """Return the learning rate of each parameter group of a fastai optimizer; NaN if unknown."""
    return [float(hyper.get("lr", math.nan)) for hyper in optimizer.hypers]


def batches(learn: Any, epochs: int) -> int | None:
    """Return the number of training batches in `epochs`; None for a loader without a length."""
    try:
        return len(learn.dls.train) * epochs or None
    except TypeError:
        return None


def first_epoch(learn: Any) -> int:
    """Return the first epoch that is not skipped, counted from 0: `fit(…, start_epoch=)`."""
    return max((c._skip_to for c in learn.cbs if isinstance(c, SkipToEpoch)), default=0)


def configuration(learn: Any) -> dict[str, Any]:
    """Return the hyper-parameters of a Learner: epochs, batch size, optimizer, loss, rates."""
    found = {
        "n_epoch": learn.n_epoch,
        "bs": getattr(learn.dls.train, "bs", None),
        "opt": getattr(learn.opt_func, "__name__", type(learn.opt).__name__),
        "loss_func": getattr(learn.loss_func, "__name__", type(learn.loss_func).__name__),
        "wd": learn.wd,
        "lr": max(rates(learn.opt), default=math.nan),
        "callbacks": ", ".join(callback.name for callback in learn.cbs),
    }
    return {name: value for name, value in found.items() if value is not None}
