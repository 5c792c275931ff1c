"""The nets of skorch, really fitted: what they know reaches the run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch import NeuralNetClassifier
from skorch.callbacks import Checkpoint
from torch import nn

from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.api.schema import Verdict
from trainvitals.integrations.skorch import TrainvitalsCallback
from trainvitals.wire import EventKind

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]


class Net(nn.Module):
    def __init__(self, units=32):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, units), nn.ReLU(), nn.Linear(units, 3))

    def forward(self, x):
        return self.body(x)


class WithPenalty(NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        penalty = sum(p.square().sum() for p in self.module_.parameters())
        return super().get_loss(y_pred, y_true, *args, **kwargs) + 0.01 * penalty


def data():
    x = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


def net(*callbacks, kind=NeuralNetClassifier, rate=1e-2, epochs=3, **more):
    torch.manual_seed(0)
    return kind(
        Net,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=rate,
        max_epochs=epochs,
        batch_size=32,
        callbacks=list(callbacks),
        verbose=0,
        **more,
    )


def watching(**options):
    return TrainvitalsCallback(**({"collector": "off", "every": 1} | options))


def values(callback, name):
    return callback.monitor._diagnosis.history.scalar(name).values.tolist()


def batch_losses(fitted):
    return [
        b["train_loss"] for epoch in fitted.history for b in epoch["batches"] if "train_loss" in b
    ]


def test_one_line_records_the_losses_the_epochs_and_the_hyper_parameters():
    callback = watching()
    fitted = net(callback, module__units=16).fit(*data())
    assert values(callback, "loss") == pytest.approx(batch_losses(fitted), rel=1e-5)
    assert values(callback, "log/epoch") == [1, 2, 3]
    validation = [epoch["valid_loss"] for epoch in fitted.history]
    assert values(callback, "loss/validation") == pytest.approx(validation[:-1], rel=1e-5)
    assert values(callback, "learning_rate/0") == pytest.approx([1e-2] * 30)
    facts = callback.monitor._diagnosis.history.facts
    assert (facts["optimizer"], facts["loss"]) == ("Adam", "CrossEntropyLoss")
    assert callback.monitor.diagnosis().not_watched == {}


def test_a_get_loss_of_the_program_is_what_is_recorded():
    callback = watching()
    fitted = net(callback, kind=WithPenalty).fit(*data())
    assert values(callback, "loss") == pytest.approx(batch_losses(fitted), rel=1e-5)


def test_partial_fit_continues_the_steps():
    first, second = watching(), watching()
    fitted = net(first, epochs=1).fit(*data())
    fitted.callbacks_[-1] = ("TrainvitalsCallback", second)
    fitted.partial_fit(*data())
    steps = second.monitor._diagnosis.history.scalar("loss").steps.tolist()
    assert steps == list(range(10, 20))


def test_checkpoints_of_skorch_are_events(tmp_path):
    callback = watching()
    net(Checkpoint(dirname=tmp_path, monitor=None), callback).fit(*data())
    events = callback.monitor._diagnosis.history.events
    saved = [(e.step, e.text) for e in events if e.kind == EventKind.CHECKPOINT]
    assert saved == [(9, "epoch 1"), (19, "epoch 2"), (29, "epoch 3")]


def test_a_net_can_be_cloned_pickled_and_searched():
    callback = watching(tags=("a",))
    fitted = net(callback, epochs=1).fit(*data())
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict(data()[0]), fitted.predict(data()[0]))
    copied = clone(fitted).callbacks[0]
    assert copied.get_params() == {"collector": "off", "every": 1, "tags": ("a",)}
    assert copied.monitor is None


def test_a_healthy_fit_is_healthy_and_a_learning_rate_far_too_high_is_named():
    healthy, sick = watching(), watching()
    net(healthy, epochs=15).fit(*data())
    net(sick, rate=30.0, epochs=15).fit(*data())
    assert healthy.monitor.diagnosis().verdict is Verdict.HEALTHY
    assert sick.monitor.diagnosis().headline.rule == "learning_rate_too_high"


def test_the_fit_is_the_same_bit_for_bit():
    plain, watched = net().fit(*data()), net(watching()).fit(*data())
    pairs = zip(plain.module_.parameters(), watched.module_.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [e["train_loss"] for e in plain.history] == [e["train_loss"] for e in watched.history]


class Failing(WithPenalty):
    def get_loss(self, *args, **kwargs):
        if len(self.history) == 2:
            raise RuntimeError("a bad batch")
        return super().get_loss(*args, **kwargs)


@pytest.mark.parametrize("same", [True, False], ids=["the same callback", "another callback"])
def test_a_fit_that_raises_is_failed_and_the_next_one_is_watched(same):
    before = torch.autograd.backward
    first = watching()
    fitted = net(first, kind=Failing)
    with pytest.raises(RuntimeError, match="a bad batch"):
        fitted.fit(*data())
    left = first.monitor
    assert (left._closed, left._state) == (True, "failed")
    assert left._error == "RuntimeError: a bad batch"
    second = first if same else watching()
    if not same:
        fitted.callbacks_ = [(n, second if c is first else c) for n, c in fitted.callbacks_]
    fitted.history.clear()
    fitted.max_epochs = 1
    fitted.partial_fit(*data())
    assert second.monitor is not left
    assert second.monitor._state == "finished"
    assert torch.autograd.backward is before
