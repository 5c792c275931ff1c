"""TV608 reports an optimizer that lost its state, on real trainings, and nothing else."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import SGD, Adam, AdamW  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from trainvitals.api.schema import Severity  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.rules.state_not_restored import StateNotRestored  # noqa: E402
from trainvitals.wire import EventKind  # noqa: E402


def train(model, optimizer, *, steps=30, start=0, at=-1, change=lambda: None):
    """Train on generated data, call `change` before step `at`; return what was recorded."""
    torch.set_num_threads(1)
    history = History()
    capture = Capture(model, optimizer, emit=history.add, every=1, start_step=start)
    if start:
        history.facts["start_step"] = float(start)
    g = torch.Generator().manual_seed(start)
    for step in range(start, start + steps):
        if step == at:
            change()
        x = torch.randn(32, 8, generator=g)
        loss = nn.functional.mse_loss(model(x), x[:, :1].tanh())
        capture.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    capture.detach()
    return history


def found(history):
    return list(StateNotRestored().check(history))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return layers(8, 32, 1)


def test_a_state_that_is_emptied_within_a_run_is_reported_at_that_step(model):
    optimizer = Adam(model.parameters(), 1e-3)
    [finding] = found(train(model, optimizer, at=20, change=optimizer.state.clear))
    assert finding.since_step == 20
    assert finding.severity is Severity.WARNING
    assert finding.evidence[0].seen == len(list(model.parameters()))
    assert "Adam began step 20" in finding.summary


@pytest.mark.parametrize("kind", [AdamW, lambda p, lr: SGD(p, lr, momentum=0.9)])
def test_a_resume_without_the_state_is_reported_at_its_first_step(model, kind):
    [finding] = found(train(model, kind(model.parameters(), 1e-3), start=5000))
    assert finding.since_step == 5000


def test_a_resume_with_the_state_is_healthy(model):
    first = Adam(model.parameters(), 1e-3)
    train(model, first)
    second = Adam(model.parameters(), 1e-3)
    second.load_state_dict(first.state_dict())
    assert not found(train(model, second, start=30))


def test_an_optimizer_without_a_state_has_none_to_lose(model):
    optimizer = SGD(model.parameters(), 1e-2)
    assert not found(train(model, optimizer, start=5000, at=5010, change=optimizer.state.clear))


def test_a_new_training_is_healthy(model):
    assert not found(train(model, Adam(model.parameters(), 1e-3)))


def test_loading_a_state_within_a_run_is_healthy(model):
    optimizer = Adam(model.parameters(), 1e-3)

    def load():
        optimizer.load_state_dict(optimizer.state_dict())

    assert not found(train(model, optimizer, at=20, change=load))


def test_each_loss_of_the_state_is_one_event(model):
    optimizer = Adam(model.parameters(), 1e-3)
    history = train(model, optimizer, at=20, change=optimizer.state.clear)
    kinds = [event.kind for event in history.events]
    assert kinds.count(EventKind.OPTIMIZER_STATE_EMPTY) == 1


def test_it_becomes_a_note_when_the_loss_is_back(model):
    optimizer = Adam(model.parameters(), 1e-3)
    history = train(model, optimizer, steps=160, at=80, change=optimizer.state.clear)
    [finding] = StateNotRestored(settled_steps=60).check(history)
    assert finding.severity is Severity.INFO
