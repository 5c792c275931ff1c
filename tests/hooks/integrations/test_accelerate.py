"""Accelerate, really used: `watch` takes what `prepare` returns."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import trainvitals
from helpers.watching import own_home  # noqa: F401 - a fixture

pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.filterwarnings("ignore")]


def trained(*, watched=True, accumulate=1):
    """Train with an Accelerator; return the model, the losses and the monitor."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    monitor, losses = None, []
    if watched:
        monitor = trainvitals.watch(model, optimizer, collector="off", every=1)
    for _ in range(12):
        with accelerator.accumulate(model):
            x = torch.randn(16, 8)
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            losses.append(loss.item())
            if monitor:
                monitor.loss(loss)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    if monitor:
        monitor.close()
    return model, losses, monitor


def losses_of(monitor):
    return monitor._diagnosis.history.scalar("loss").values.tolist()


def test_each_step_has_its_loss_and_everything_is_measured():
    _, losses, monitor = trained()
    assert losses_of(monitor) == pytest.approx(losses, rel=1e-5)
    assert monitor.diagnosis().not_watched == {}


def test_with_accumulation_a_step_is_one_update():
    _, losses, monitor = trained(accumulate=3)
    means = [sum(losses[i : i + 3]) / 3 for i in range(0, 12, 3)]
    assert losses_of(monitor) == pytest.approx(means, rel=1e-5)


def test_the_training_is_the_same_bit_for_bit():
    plain, watched = trained(watched=False)[0], trained()[0]
    pairs = zip(plain.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
