"""`watch(guard=…)`: what happens to an update whose gradients are not finite."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

import trainvitals
from helpers.warm_python import run_warm
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.api.schema import Prevented
from trainvitals.capture.veto import UpdateGuard

pytestmark = pytest.mark.usefixtures("own_home")

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 1e-2, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
}
PRECISIONS = {
    "float32": (torch.float32, False),
    "float64": (torch.float64, False),
    "bfloat16": (torch.bfloat16, False),
    "autocast": (torch.float32, True),
}
BAD_STEP = 4


class Training:
    """A training in which the loss of one step is NaN or infinite."""

    def __init__(self, make, dtype=torch.float32, autocast=False, bad=float("nan"), **watch):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
        self.optimizer = make(self.model.parameters())
        self.dtype, self.autocast, self.bad = dtype, autocast, bad
        self.monitor = trainvitals.watch(self.model, self.optimizer, collector="off", **watch)

    def run(self, steps=8, micro_batches=1):
        for step in range(steps):
            self.optimizer.zero_grad()
            for micro_batch in range(micro_batches):
                with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                    loss = self.model(torch.randn(16, 6, dtype=self.dtype)).square().mean()
                if step == BAD_STEP and micro_batch == micro_batches - 1:
                    loss = loss * self.bad
                self.monitor.loss(loss)
                loss.backward()
            self.before = [p.detach().clone() for p in self.model.parameters()]
            self.state = copy.deepcopy(self.optimizer.state_dict()["state"])
            self.optimizer.step()
            if step == BAD_STEP:
                self.after_bad = [p.detach().clone() for p in self.model.parameters()]
                self.unmoved = all(map(torch.equal, self.before, self.after_bad)) and str(
                    self.state
                ) == str(self.optimizer.state_dict()["state"])
        self.monitor.close()
        return self

    @property
    def is_finite(self):
        values = [
            *self.model.parameters(),
            *(v for s in self.optimizer.state.values() for v in s.values() if torch.is_tensor(v)),
        ]
        return all(bool(v.isfinite().all()) for v in values)

    @property
    def events(self):
        events = self.monitor._diagnosis.history.events
        return [(e.step, e.text) for e in events if e.kind == "nonfinite_update"]


@pytest.mark.parametrize("every", [1, 10**6], ids=["full", "light"])
@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_vetoed_update_reaches_neither_weights_nor_optimizer(
    optimizer, precision, micro_batches, every
):
    training = Training(OPTIMIZERS[optimizer], *PRECISIONS[precision], guard="veto", every=every)
    training.run(micro_batches=micro_batches)
    assert training.unmoved
    assert training.is_finite
    assert training.events == [(BAD_STEP, "the update was prevented")]
    assert training.monitor.safe_to_save()
    assert training.monitor.last_healthy_step == 7


@pytest.mark.parametrize("guard", ["veto", "report", "off"])
def test_the_diagnosis_has_the_number_and_the_steps_of_prevented_updates(guard):
    model = nn.Linear(4, 2)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with trainvitals.watch(model, optimizer, collector="off", guard=guard) as monitor:
        for step in range(12):
            if step == 3:
                assert monitor.diagnosis().prevented is None
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean()
            monitor.loss(loss * (float("nan") if step in (3, 4, 9) else 1)).backward()
            optimizer.step()
    wanted = Prevented(updates=3, first_step=3, last_step=9) if guard == "veto" else None
    assert monitor.diagnosis().prevented == wanted


def test_an_infinite_gradient_is_prevented_too():
    assert Training(OPTIMIZERS["sgd"], bad=float("inf"), guard="veto").run().is_finite


def test_off_and_report_leave_the_update_as_it_is():
    for guard, events in (("off", []), ("report", [(BAD_STEP, "the update was made")])):
        training = Training(OPTIMIZERS["sgd"], guard=guard).run()
        assert not training.is_finite
        assert training.events[:1] == events
        assert not training.monitor.safe_to_save()
        assert training.monitor.last_healthy_step == BAD_STEP - 1


def test_a_veto_is_reported_as_a_finding():
    diagnosis = Training(OPTIMIZERS["sgd"], guard="veto").run().monitor.diagnosis()
    assert diagnosis.headline.rule == "non_finite_value"
    assert diagnosis.headline.since_step == BAD_STEP


def test_the_gradients_are_there_again_after_the_step():
    training = Training(OPTIMIZERS["sgd"], guard="veto")
    training.run(steps=BAD_STEP + 1)
    assert all(p.grad is not None for p in training.model.parameters())


def test_stop_raises_at_the_step_with_finite_weights():
    training = Training(OPTIMIZERS["adamw"], guard="stop")
    with pytest.raises(
        trainvitals.StopTraining,
        match=r"gradients of step 4 are not finite\. Its update was prevented; the weights",
    ):
        training.run()
    assert training.is_finite
    training.monitor.close()


def test_a_program_that_stop_ends_has_an_exit_code():
    program = """
import torch, trainvitals
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
trainvitals.watch(model, optimizer, guard="stop", collector="off")
for _ in range(3):
    (model(torch.ones(1, 2)).sum() * float("nan")).backward()
    optimizer.step()
"""
    done = run_warm(program)
    assert done.returncode == 1
    assert "StopTraining: the gradients of step 0 are not finite" in done.stderr


@pytest.mark.parametrize("guard", ["off", "report", "veto", "stop"])
def test_a_finite_training_is_the_same_bit_for_bit(guard):
    def trained(**watch):
        training = Training(OPTIMIZERS["adamw"], bad=1.0, **watch).run()
        assert training.events == []
        return list(training.model.parameters())

    pairs = zip(trained(guard="off", overhead=0.0), trained(guard=guard), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_closure_is_not_guarded():
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    monitor = trainvitals.watch(model, optimizer, guard="veto", collector="off")

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(4, 2)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    monitor.close()
    assert monitor._capture.updates.vetoed == 0


def test_an_unknown_mode_is_a_warning_and_off(caplog):
    with caplog.at_level(logging.WARNING, "trainvitals"):
        training = Training(OPTIMIZERS["sgd"], guard="always").run()
    assert "guard='always' is not used" in caplog.text
    assert not training.is_finite


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.0])
def test_gradients_that_were_not_measured_are_read(sparse, bad):
    """On an accelerator the measured values arrive later: `total` is None."""
    table = nn.Embedding(5, 2, sparse=sparse)
    optimizer = torch.optim.SGD(table.parameters(), 0.1)
    (table(torch.tensor([1, 1, 3])).sum() * bad).backward()
    guard = UpdateGuard("veto", lambda record: None, lambda name, reason: None)
    guard.before(optimizer, None, 0)
    assert guard.vetoed == (bad != 1)
    assert (table.weight.grad is None) == (bad != 1)
    guard.after()
    assert table.weight.grad is not None
