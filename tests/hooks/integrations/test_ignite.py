"""The engines of PyTorch Ignite, really run: what they know reaches the run."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from ignite.metrics import Loss
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.api.schema import Verdict
from trainvitals.integrations.ignite import TrainvitalsHandler
from trainvitals.wire import EventKind

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]


class Training:
    """A trainer with its evaluator, watched with `options`; `losses` has one of each iteration."""

    def __init__(self, loss=None, *, rate=1e-2, watched=True, accumulate=1, **options):
        torch.manual_seed(0)
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), rate)
        self.trainer = create_supervised_trainer(
            self.model, self.optimizer, self.loss, gradient_accumulation_steps=accumulate
        )
        metrics = {"loss": Loss(nn.CrossEntropyLoss())}
        self.evaluator = create_supervised_evaluator(self.model, metrics)
        self.losses, self.validation = [], []
        self.handler = TrainvitalsHandler(
            self.model,
            self.optimizer,
            loss=self.loss,
            **({"collector": "off", "every": 1} | options),
        )
        if watched:
            self.handler.attach(self.trainer, self.evaluator)
        collect = lambda engine: self.losses.append(engine.state.output)  # noqa: E731
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, collect)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.evaluate)

    def evaluate(self):
        self.evaluator.run(DataLoader(data(), 64))
        self.validation.append(self.evaluator.state.metrics["loss"])

    def run(self, epochs=3):
        torch.manual_seed(1)
        self.trainer.run(DataLoader(data(), 32, shuffle=True), max_epochs=epochs)
        return self

    def scalar(self, name):
        return self.handler.monitor._diagnosis.history.scalar(name)

    def values(self, name):
        return self.scalar(name).values.tolist()


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=g)
    return TensorDataset(x, (x[:, 0] > 0).long())


def test_one_line_records_the_losses_the_epochs_and_the_plan():
    run = Training().run()
    assert run.values("loss") == pytest.approx(run.losses, rel=1e-5)
    assert run.values("log/epoch") == [1, 2, 3]
    assert run.values("loss/validation") == pytest.approx(run.validation[:-1], rel=1e-5)
    assert run.values("learning_rate/0") == pytest.approx([1e-2] * 24)
    history = run.handler.monitor._diagnosis.history
    assert history.total_steps == 24
    assert (history.facts["optimizer"], history.facts["loss"]) == ("Adam", "CrossEntropyLoss")
    assert run.handler.monitor.diagnosis().not_watched == {}


@pytest.mark.parametrize("loss", [None, nn.functional.cross_entropy])
def test_with_accumulation_a_step_is_one_update_and_its_loss_the_mean(loss):
    run = Training(loss, accumulate=2).run()
    pairs = zip(run.losses[::2], run.losses[1::2], strict=True)
    assert run.values("loss") == pytest.approx([(a + b) / 2 for a, b in pairs], rel=1e-5)
    assert run.handler.monitor._diagnosis.history.total_steps == 12


def test_the_loss_of_a_function_is_what_backward_is_called_on():
    before = torch.autograd.backward
    run = Training(nn.functional.cross_entropy).run()
    assert run.values("loss") == pytest.approx(run.losses, rel=1e-5)
    assert torch.autograd.backward is before


def test_a_resumed_trainer_continues_its_steps():
    first, second = Training().run(epochs=1), Training()
    second.trainer.load_state_dict(first.trainer.state_dict())
    second.run(epochs=2)
    assert second.scalar("loss").steps.tolist() == list(range(8, 16))


def test_a_saved_checkpoint_is_an_event(tmp_path):
    run = Training()
    saver = Checkpoint({"model": run.model}, DiskSaver(tmp_path, require_empty=False))
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)
    run.run()
    events = run.handler.monitor._diagnosis.history.events
    saved = [(e.step, e.text) for e in events if e.kind == EventKind.CHECKPOINT]
    assert saved == [(7, "epoch 1"), (15, "epoch 2"), (23, "epoch 3")]


def test_a_healthy_run_is_healthy_and_a_learning_rate_far_too_high_is_named():
    healthy, sick = Training().run(epochs=16), Training(rate=30.0).run(epochs=16)
    assert healthy.handler.monitor.diagnosis().verdict is Verdict.HEALTHY
    assert sick.handler.monitor.diagnosis().headline.rule == "learning_rate_too_high"


def test_a_run_that_raises_raises_and_the_next_trainer_is_watched():
    run, other = Training(), Training(watched=False)

    @run.trainer.on(Events.ITERATION_COMPLETED(once=5))
    def breaks():
        raise RuntimeError("no more data")

    with pytest.raises(RuntimeError, match="no more data"):
        run.run()
    first = run.handler.monitor
    run.handler.attach(other.trainer)
    other.run()
    assert first._closed
    assert run.handler.monitor is not first


@pytest.mark.parametrize("loss", [None, nn.functional.cross_entropy])
def test_the_run_is_the_same_bit_for_bit(loss):
    plain, watched = Training(loss, watched=False).run(), Training(loss).run()
    pairs = zip(plain.model.parameters(), watched.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert plain.losses == watched.losses


def fail(_engine):
    raise RuntimeError("a bad batch")


def test_an_exception_closes_the_monitor_as_failed_and_is_raised():
    before = torch.autograd.backward
    run = Training(nn.functional.cross_entropy)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), fail)
    with pytest.raises(RuntimeError, match="a bad batch"):
        run.run()
    monitor = run.handler.monitor
    assert (monitor._closed, monitor._state) == (True, "failed")
    assert monitor._error == "RuntimeError: a bad batch"
    assert torch.autograd.backward is before


def test_a_program_that_handles_exceptions_itself_gets_none():
    run, seen = Training(), []
    run.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda _, error: seen.append(error))
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), fail)
    run.run()
    assert str(seen[0]) == "a bad batch"
    assert run.handler.monitor._state == "failed"
