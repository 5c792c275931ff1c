"""An exception in a fit of fastai, with a small stand-in of its Learner.

fastai cannot be installed with the other tools (see test_fastai.py). The stand-in calls callbacks
in the documented order, before_fit → before_train → after_loss → after_fit, and like the Learner it
calls none of them after an exception that is not a cancellation. Source: fastai 2.8,
`Learner._with_events`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.watching import own_home  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("own_home")

STEPS = 6


class Callback:
    learn = None


class SkipToEpoch(Callback):
    name = "skip_to_epoch"


class Cancelled(Exception):
    pass


class Optimizer:
    """An optimizer of fastai's own kind: no optimizer of torch."""

    def __init__(self, parameters):
        self.param_lists = [list(parameters)]
        self.hypers = [{"lr": 0.1}]

    def step(self):
        with torch.no_grad():
            for p in self.param_lists[0]:
                p -= 0.1 * p.grad

    def zero_grad(self):
        for p in self.param_lists[0]:
            p.grad = None


class Learner:
    def __init__(self, callback, error=None, at=3):
        self.model = nn.Linear(4, 1)
        self.opt = Optimizer(self.model.parameters())
        self.opt_func, self.loss_func, self.wd = Optimizer, nn.MSELoss(), None
        self.dls = SimpleNamespace(train=[torch.randn(8, 4) for _ in range(STEPS)])
        self.cbs = [callback]
        self._error, self._at = error, at
        callback.learn, callback.name = self, "trainvitals"

    def __call__(self, event):
        for callback in self.cbs:
            getattr(callback, event, lambda: None)()

    def fit(self, n_epoch):
        self.n_epoch = n_epoch
        try:
            self("before_fit")
            self._do_fit()
        except Cancelled:
            self("after_cancel_fit")
        self("after_fit")

    def _do_fit(self):
        self.epoch, self.training = 0, True
        self("before_train")
        for number, x in enumerate(self.dls.train):
            if number == self._at and self._error is not None:
                raise self._error
            self.loss_grad = self.loss_func(self.model(x), torch.zeros(len(x), 1))
            self("after_loss")
            self.loss_grad.backward()
            self.opt.step()
            self.opt.zero_grad()


@pytest.fixture
def callback_class(monkeypatch):
    """The integration, imported with the stand-in in place of fastai."""
    core, learner = ModuleType("fastai.callback.core"), ModuleType("fastai.learner")
    core.Callback = Callback
    load = ModuleType("fastai.data.load")
    load.DataLoader = type("DataLoader", (), {})
    learner.SkipToEpoch, learner.Learner = SkipToEpoch, Learner
    monkeypatch.setattr(Learner, "fit", Learner.fit)
    for name, module in {
        "fastai": ModuleType("fastai"),
        "fastai.callback": ModuleType("fastai.callback"),
        core.__name__: core,
        "fastai.data": ModuleType("fastai.data"),
        load.__name__: load,
        learner.__name__: learner,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    name = "trainvitals.integrations.fastai"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name).TrainvitalsCallback
    sys.modules.pop(name, None)


def test_an_exception_closes_the_run_as_failed_and_is_raised(callback_class):
    callback = callback_class(collector="off", every=1)
    learner = Learner(callback, RuntimeError("a bad batch"))
    with pytest.raises(RuntimeError, match="a bad batch"):
        learner.fit(1)
    monitor = callback.monitor
    assert (monitor._closed, monitor._state) == (True, "failed")
    assert monitor._error == "RuntimeError: a bad batch"
    assert len(monitor._diagnosis.history.scalar("loss").values) == 3
    assert "step" not in vars(learner.opt)


@pytest.mark.parametrize("error", [None, Cancelled()])
def test_a_fit_that_ends_or_is_cancelled_is_finished(callback_class, error):
    callback = callback_class(collector="off", every=1)
    Learner(callback, error).fit(1)
    assert (callback.monitor._closed, callback.monitor._state) == (True, "finished")
