"""With a Trainer that has no `get_batch_samples`, everything but the sample indices is recorded."""

from __future__ import annotations

import importlib.util
import os
import sys
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from torch import nn

from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.integrations import huggingface

pytestmark = pytest.mark.usefixtures("own_home")

STEPS = 5


class OldTrainer:
    """Trains as the Trainer before 4.46: its loop reads the iterator itself."""

    def __init__(self, callback):
        self.callback = callback

    def train(self):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        args = SimpleNamespace(run_name=None, gradient_accumulation_steps=1, to_dict=dict)
        state = SimpleNamespace(max_steps=STEPS, global_step=0, epoch=0)
        given = {"model": model, "optimizer": optimizer}
        if self.callback is not None:
            self.callback.on_train_begin(args, state, None, **given)
        for _ in range(STEPS):
            loss = model(torch.randn(4, 3)).square().mean()
            if self.callback is not None:
                self.callback.monitor.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if self.callback is not None:
            self.callback.on_train_end(args, state, None)
        return model


@pytest.fixture
def integration(monkeypatch):
    """Return the integration as it is imported beside an old transformers."""
    # transformers replaces its module in sys.modules when it is imported.
    monkeypatch.setattr(sys.modules["transformers"], "Trainer", OldTrainer)
    monkeypatch.setattr(OldTrainer, "train", OldTrainer.train)  # the import wraps it
    spec = importlib.util.spec_from_file_location("integration_of_an_old_one", huggingface.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loss_is_recorded_and_the_missing_indices_have_one_reason(integration, tmp_path):
    callback = integration.TrainvitalsCallback(collector="off", record=tmp_path)
    watched = OldTrainer(callback).train()
    diagnosis = callback.monitor.diagnosis()
    assert len(callback.monitor._diagnosis.history.scalar("loss")) == STEPS
    assert diagnosis.not_watched == {"sample indices": integration.NO_METHOD}
    assert torch.equal(watched.weight, OldTrainer(None).train().weight)


def test_without_the_recorder_nothing_is_missing(integration):
    callback = integration.TrainvitalsCallback(collector="off")
    OldTrainer(callback).train()
    assert callback.monitor.diagnosis().not_watched == {}


def test_the_released_trainer_has_the_method():
    assert huggingface.OBSERVES_BATCHES
